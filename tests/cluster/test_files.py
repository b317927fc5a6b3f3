"""The files that start clusters: valid by the schemas of what reads them, each with a token."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
SCHEMA = json.loads((ROOT / "tests" / "golden" / "kuberay_schema.json").read_text())
KUBERAY = ["kuberay-cluster.yaml", "kuberay-job.yaml"]
UNITS = ["cdp-ray-head.service", "cdp-ray-worker.service"]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def test_ray_up_takes_its_file() -> None:
    """By Ray's own check and schema, defaults filled in; the token goes to every node."""
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents("ray-up.yaml")
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text()
    jsonschema.validate(config, json.loads(schema))
    validate_config(prepare_config(config))
    assert any("auth_token" in remote for remote in config["file_mounts"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token" in starts[0]
        for command in commands:
            shlex.split(command)


def validate(document: dict[str, Any]) -> None:
    schema = {**SCHEMA, "$ref": f"#/$defs/{document['kind']}"}
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_its_files(name: str) -> None:
    """Every field is one that the definitions have, mounts have volumes, a token is needed."""
    for document in documents(name):
        validate(document)
        if document["kind"] == "PersistentVolumeClaim":
            continue
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        assert spec["authOptions"] == {"mode": "token"}
        groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]
        for pod in [group["template"]["spec"] for group in groups]:
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} == volumes
                paths = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert "/dev/shm" in paths
                assert "metrics" in [port["name"] for port in container["ports"]]
        if "runtimeEnvYAML" in document["spec"]:
            variables = yaml.safe_load(document["spec"]["runtimeEnvYAML"])["env_vars"]
            assert float(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > 60


def test_the_schema_finds_what_is_wrong() -> None:
    """A field that does not exist, one that is missing, a quantity that is none."""
    (job,) = documents("kuberay-job.yaml")
    spec = job["spec"]
    for wrong in (
        {**spec, "entryPoint": "cdp-sinks"},
        {**spec, "rayClusterSpec": {"rayVersion": "2.60.0"}},
        {**spec, "backoffLimit": "none"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate({**job, "spec": wrong})


@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    """The sections and keys that a node needs; by `systemd-analyze verify` where that is."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    text = (CLUSTER / name).read_text()
    unit.read_string(text)
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    assert "Environment=RAY_AUTH_MODE=token" in text
    drain_s = int(re.findall(r"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=(\d+)", text)[0])
    assert int(unit["Service"]["TimeoutStopSec"]) > drain_s
    assert "--block" in unit["Service"]["ExecStart"]
    if shutil.which("systemd-analyze"):
        # It wants to see the program; where that will lie is for the machine to say.
        (tmp_path / name).write_text(text.replace("/opt/cdp/venv/bin/ray", "/bin/true"))
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        complaints = [line for line in done.stderr.splitlines() if name in line]
        assert complaints == []


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, lines joined."""
    text = re.sub(r"\\\n\s*", "", (CLUSTER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_made_of_what_is_there() -> None:
    """Known instructions in order, what is copied exists, no root, the token asked for."""
    found = instructions()
    assert found[0][0] == "FROM"
    assert re.fullmatch(r"[\w./-]+:[\w.-]+", found[0][1]), "an image without a version"
    assert {name for name, _ in found} <= {"FROM", "COPY", "RUN", "ENV", "USER", "CMD"}
    for _, arguments in [each for each in found if each[0] == "COPY"]:
        *sources, _ = [part for part in arguments.split() if not part.startswith("--")]
        assert all((ROOT / source).exists() for source in sources), arguments
    users = [arguments for name, arguments in found if name == "USER"]
    assert users[-1] not in ("root", "0")
    variables = " ".join(arguments for name, arguments in found if name == "ENV")
    assert "RAY_AUTH_MODE=token" in variables
    assert not re.search(r"(?i)(token|password|secret)=(?!token\b)\S", variables)
    json.loads(next(arguments for name, arguments in found if name == "CMD"))


def test_the_script_is_a_script() -> None:
    """It parses, can be started, and says how it is used."""
    script = CLUSTER / "three-nodes"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "three-nodes up" in done.stderr
    assert "ray stop" not in script.read_text()
