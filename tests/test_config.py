"""Configuration: what is read from TOML, and what is said when it can't be."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import NO_PRODUCER, BatchHeader
from cdp_ray_sinks.batch.enums import EventType, SchemaType
from cdp_ray_sinks.config import (
    CONFIG_BYTES_MAX,
    DeliveryConfig,
    PipelineConfig,
    RoutingConfig,
    load,
    loads,
)
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig
from cdp_ray_sinks.sinks.null import NullConfig

GOOD = """
[sources.gen]
type = "synthetic"
events = 1000
[sinks.nothing]
type = "null"
[sinks.archive]
type = "disk_binary"
path = "somewhere/archive"
"""


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, "file.toml")
    return str(caught.value)


def header(workspace: int = 1, schema: int = SchemaType.EVENT, types: int = 2) -> BatchHeader:
    return BatchHeader(NO_PRODUCER, 0, 0, schema, types, workspace, "gen", 0, 1, 1, 1, 0)


def test_a_small_file_is_enough() -> None:
    """A source and a sink make a pipeline, with every default as documented."""
    config = loads(GOOD)
    assert config.pipeline.name == "default"
    assert config.delivery == DeliveryConfig()
    assert config.delivery.window_bytes == 256 * 1024 * 1024
    assert config.ray.address is None
    assert list(config.active_sinks()) == ["nothing", "archive"]
    assert config.routing_table().route(header()) == ("nothing", "archive")
    assert config.warnings() == []


def test_relative_paths_are_made_absolute_by_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file calls somewhere/archive lies where the command was started."""
    monkeypatch.chdir(tmp_path)
    sink = loads(GOOD).sinks["archive"]
    assert isinstance(sink, DiskBinaryConfig)
    assert sink.path == tmp_path / "somewhere/archive"


def test_rules_route_by_any_of_several_values_and_all_conditions() -> None:
    """Scalars and lists mean the same, names know no case, the first match wins."""
    config = loads(
        GOOD
        + """
[routing]
default = ["archive"]
[[routing.rules]]
match = { schema = "Log" }
sinks = ["nothing"]
[[routing.rules]]
match = { source = ["gen", "other"], workspace = [7, 8], event_type = "IDENTIFY" }
sinks = ["archive", "nothing", "archive"]
"""
    )
    route = config.routing_table().route
    assert route(header(schema=SchemaType.LOG, types=0)) == ("nothing",)
    assert route(header(workspace=8, types=1 << EventType.IDENTIFY)) == ("archive", "nothing")
    assert route(header(workspace=9, types=1 << EventType.IDENTIFY)) == ("archive",)
    assert route(header(workspace=8)) == ("archive",)


def test_a_disabled_sink_is_left_out_of_every_rule() -> None:
    """Nothing is routed to it, and what is lost by that is warned of."""
    text = GOOD.replace('type = "null"', 'type = "null"\nenabled = false')
    config = loads(text + '[routing]\ndefault = ["nothing"]\n')
    assert config.routing_table().route(header()) == ()
    assert any("disabled" in warning for warning in config.warnings())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["at least one enabled sink"]),
        ('[sinks.a]\ntype = "null"', ["at least one enabled source"]),
        ("sinks = 5", ["sinks = 5", "[sinks.NAME]"]),
        ("[sinks]\na = 5", ["sinks.a = 5", "must be a table"]),
        ("[sinks.a]\n", ["sinks.a.type", "missing", "null"]),
        ('[sinks.a]\ntype = "disk_binay"', ["sinks.a.type = 'disk_binay'", "'disk_binary'"]),
        ("[sinks.a]\ntype = 3", ["sinks.a.type = 3", "unknown sink type", "null"]),
        (GOOD + "required = false", ["sinks.archive.on_full = 'block'", "'drop'"]),
        ('[sources.a]\ntype = "tpc"', ["sources.a.type = 'tpc'", "did you mean 'tcp'"]),
        (GOOD + "[rootin]\n", ["rootin: unknown key", "'routing'"]),
        (GOOD + 'pth = "x"\n', ["sinks.archive.pth: unknown key", "did you mean 'path'"]),
        ('[sinks.a]\ntype = "disk_binary"', ["sinks.a.path: missing"]),
        ('[sinks."a b"]\ntype = "null"', ["sinks.'a b'", "1-64 letters"]),
        (GOOD + "[delivery]\nwindow_batches = true", ["delivery.window_batches = True"]),
        (GOOD + '[delivery]\nwindow_bytes = "1"', ["delivery.window_bytes = '1'", "integer"]),
        (GOOD + "[delivery]\nwindow_bytes = 1", ["delivery.window_bytes = 1", "1048576"]),
        (GOOD + "[delivery]\ndrain_deadline_s = inf", ["delivery.drain_deadline_s = inf"]),
        (GOOD + "[routing]\nrules = []", ["routing.default: missing"]),
        (GOOD + "[routing]\ndefault = []", ["routing.default = []"]),
        (GOOD + '[routing]\ndefault = ["archiv"]', ["'archiv'", "did you mean 'archive'"]),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(text: str, parts: list[str]) -> None:
    """Each wrong file is answered with where, what, and what would have been right."""
    message = error_of(text)
    assert message.startswith("file.toml: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ('match = {}\nsinks = ["nul"]', ["rules[0].sinks", "'nul'"]),
        ('sinks = ["nothing"]', ["rules[0].match: missing"]),
        ("match = {}\nsinks = []", ["rules[0].sinks = []"]),
        ('match = {source_type = "tcp"}\nsinks = ["nothing"]', ["source_type", "'source'"]),
        (
            'match = {schema = "evnt"}\nsinks = ["nothing"]',
            ["match.schema", "'evnt'", "event, log"],
        ),
        ('match = {event_type = "LOG"}\nsinks = ["nothing"]', ["event_type", "identify"]),
        ('match = {workspace = "1"}\nsinks = ["nothing"]', ["workspace[0] = '1'", "integer"]),
        ('match = {workspace = 0}\nsinks = ["nothing"]', ["workspace[0] = 0"]),
    ],
)
def test_an_error_in_a_rule_names_its_place(rule: str, parts: list[str]) -> None:
    """Rules are told apart by their number, from 0."""
    message = error_of(GOOD + f'[routing]\ndefault = ["nothing"]\n[[routing.rules]]\n{rule}')
    for part in parts:
        assert part in message


def test_all_problems_of_a_table_are_told_at_once() -> None:
    """Two wrong keys are two lines, each beginning with the file."""
    lines = error_of(GOOD + "[delivery]\nwindow_bytez = 1\ngroup_batches_max = 0").split("\n")
    assert len(lines) == 2
    assert all(line.startswith("file.toml: delivery.") for line in lines)


def test_an_error_never_shows_a_secret_or_a_control_character() -> None:
    """A wrong value of a key that sounds secret is not repeated; escapes are escaped."""
    assert "hunter2" not in error_of(GOOD + '[pipeline]\napi_token = "hunter2"')
    assert "\x1b" not in error_of(GOOD + '[pipeline]\n"\\u001b[31m" = "\\u001b[31m"')
    assert "\x1b" not in error_of(GOOD + '[pipeline]\nname = "\\u001b[31m"')


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 50_000,
        "x = " + "{a=" * 5_000 + "1" + "}" * 5_000,
        "x = " + "9" * 100_000,
        "a." * 100_000 + "a = 1",
        "[" + '"a" . ' * 100_000 + "a]",
        GOOD + "\0",
        "[[[[",
        "\ufffe",
        GOOD + "[sources.gen]\n",
        "a = 1\na = 2",
        "x = 2026-99-99",
    ],
)
def test_hostile_toml_is_an_error_and_nothing_worse(text: str) -> None:
    """Depth, length, repetition and nonsense all end in a ConfigError, at once."""
    assert error_of(text)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_mutated_file_loads_or_is_refused(data: st.DataObject) -> None:
    """Whatever bytes are changed, the answer is a config or a ConfigError."""
    text = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        loads(text.decode(errors="replace"))
    except ConfigError:
        return


def test_syntax_errors_name_line_and_column(tmp_path: Path) -> None:
    """Both a TOML mistake and bytes that are not UTF-8 are found by line and column."""
    path = tmp_path / "broken.toml"
    path.write_text("[pipeline]\nname = \n")
    with pytest.raises(ConfigError, match=r"broken.toml: .*line 2, column 8"):
        load(path)
    path.write_bytes(b"[pipeline]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match=r"broken.toml: .*line 2, column 9"):
        load(path)


def test_what_is_not_a_readable_file_is_a_clear_error(tmp_path: Path) -> None:
    """A folder, nothing, a forbidden name and far too many bytes are told apart."""
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="null byte"):
        load("a\0b")
    (tmp_path / "big.toml").write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="more than"):
        load(tmp_path / "big.toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_clear_error(tmp_path: Path) -> None:
    """The path and the reason are named."""
    path = tmp_path / "shut.toml"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(ConfigError, match=r"shut.toml: Permission denied"):
        load(path)


def test_warnings_name_what_is_probably_not_meant() -> None:
    """A sink nothing reaches, a source that is not there, rules behind a catch-all."""
    config = loads(
        GOOD
        + """
[routing]
default = ["nothing"]
[[routing.rules]]
match = { source = "gne" }
sinks = ["nothing"]
[[routing.rules]]
match = {}
sinks = ["nothing"]
[[routing.rules]]
match = { workspace = 4 }
sinks = ["nothing"]
"""
    )
    text = "\n".join(config.warnings())
    assert "sinks.archive: no rule sends anything there" in text
    assert "'gne': no such source enabled; did you mean 'gen'?" in text
    assert "rules[1]: matches everything" in text


def test_a_file_that_a_source_needs_and_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    """It may be there on the node that reads it, so it is no error yet."""
    text = (
        GOOD
        + f"""
[sources.clients]
type = "tcp"
listen = "127.0.0.1:0"
api_keys = "{tmp_path}/keys"
"""
    )
    assert [w for w in loads(text).warnings() if "sources.clients.api_keys" in w]
    (tmp_path / "keys").write_text("")
    assert loads(text).warnings() == []


def test_a_config_made_in_python_may_have_no_source() -> None:
    """Models and plain tables both do; events then come from the program itself."""
    config = PipelineConfig(
        sinks={"a": NullConfig(), "b": {"type": "null"}}, routing=RoutingConfig(default=("a",))
    )
    assert config.sinks["b"] == NullConfig()
    assert config.routing_table().default == ("a",)
    with pytest.raises(ConfigError, match=r"routing\.default"):
        PipelineConfig(sinks={"a": NullConfig()}, routing={"default": ["b"]})
    with pytest.raises(ConfigError, match=r"delivery\.window_bytez"):
        PipelineConfig(sinks={"a": NullConfig()}, delivery={"window_bytez": 1})


def test_a_config_survives_pickling() -> None:
    """It travels to actors as it is."""
    config = loads(GOOD)
    assert pickle.loads(pickle.dumps(config)) == config


def test_two_sinks_may_not_write_into_the_same_folder() -> None:
    """Each would take the workspaces from the other; tables beside an archive are fine."""
    other = '[sinks.b]\ntype = "{}"\npath = "somewhere/archive"\n'
    text = error_of(GOOD + other.format("disk_plaintext"))
    assert "sinks.b.path: sinks.archive writes to " in text
    assert "somewhere/archive too" in text
    loads(GOOD + other.format("parquet"))
    loads(GOOD + "enabled = false\n" + other.format("disk_binary"))
