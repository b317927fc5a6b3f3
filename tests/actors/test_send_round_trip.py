"""Archive, `send`, TCP source, pipeline, archive: the same events come out at the other end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from cdp_ray_sinks.cli.events import events_of
from cdp_ray_sinks.cli.send import send_paths
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig
from cdp_ray_sinks.testing import BatchKeeper
from cdp_ray_sinks.writers.binary import BinaryLz4Writer, BinaryWriter

Make = Callable[..., PipelineConfig]
KEY = "00112233445566778899aabbccddeeff"
WORKSPACE = 31
EVENTS = 20_000


def write_archive(base: Path, kind: str) -> None:
    """Events and log entries of all sorts, as this package or other software writes them."""
    keeper = BatchKeeper()
    config = SyntheticConfig(
        events=EVENTS, batch_events=2_000, log_share=0.3, identify_share=0.2, context_share=0.1
    )
    config.build(SourceContext("made")).run(keeper, threading.Event())
    if kind == "other software":
        base.mkdir(parents=True)
        content = b"".join(batch.records.tobytes() for batch in keeper.batches)
        (base / "data.bin.lz4").write_bytes(lz4.frame.compress(content))
        return
    writer = BinaryLz4Writer() if kind == "lz4" else BinaryWriter()
    chain = Chain(base, 1, writer, ChainOptions())
    chain.open()
    for batch in keeper.batches:
        chain.append(batch)
        chain.commit()
    chain.close()


def events_in(base: Path) -> list[dict[str, Any]]:
    """What each event says, apart from who received it and when."""

    def refuse(problem: object) -> None:
        raise AssertionError(problem)

    found = [
        {key: value for key, value in event.items() if key not in ("received_at_ms", "source_ip")}
        for _, batch in read_batches([base], refuse)
        for event in events_of(batch, refuse)
    ]
    for event in found:
        del event["workspace_id"]
    return sorted(found, key=lambda event: int(event["payload"]["n"]))


def port_of(pipeline: Pipeline) -> int:
    """Where the TCP source listens, once it does."""
    until = time.monotonic() + 30
    while True:
        reports = pipeline.status()["reports"]
        (counters,) = (r["counters"] for name, r in reports.items() if name.endswith("/clients"))
        if counters.get("port"):
            return int(counters["port"])
        assert time.monotonic() < until, "nobody listens"
        time.sleep(0.1)


@pytest.mark.parametrize("kind", ["plain", "lz4", "other software"])
def test_what_an_archive_holds_arrives_in_another(
    make_config: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    """Over a real socket and real actors; keys are in neither archive."""
    write_archive(tmp_path / "sent", kind)
    (tmp_path / "keys.conf").write_text(f"{KEY}:{WORKSPACE}\n")
    config = make_config(
        sources={
            "clients": {
                "type": "tcp",
                "listen": "127.0.0.1:0",
                "api_keys": tmp_path / "keys.conf",
            }
        },
        sinks={
            "archive": {
                "type": "disk_binary",
                "path": tmp_path / "taken",
                "compression": "none" if kind == "lz4" else "lz4",
            }
        },
    )
    with Pipeline(config) as pipeline:
        port = port_of(pipeline)
        capsys.readouterr()
        assert send_paths([tmp_path / "sent"], f"127.0.0.1:{port}", None, KEY, as_json=True) == 0
        report = json.loads(capsys.readouterr().out)
    assert (report["events"], report["skipped"], report["taken"]) == (EVENTS, 0, True)
    sent, taken = events_in(tmp_path / "sent"), events_in(tmp_path / "taken")
    assert len(taken) == EVENTS
    assert taken == sent
    assert [path.name for path in (tmp_path / "taken").iterdir()] == [str(WORKSPACE)]
    assert verify(tmp_path / "taken").ok
    held = b"".join(
        batch.records.tobytes() for _, batch in read_batches([tmp_path / "taken"], print)
    )
    assert bytes.fromhex(KEY) not in held
