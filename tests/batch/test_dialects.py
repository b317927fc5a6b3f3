"""The two layouts of Event are told apart, table by table."""

from __future__ import annotations

from typing import Any

import pytest

from cdp_ray_sinks.batch.columns import decode_events

DEVICE = bytes(range(0x80, 0x90))
SESSION = bytes(range(0xA0, 0xB0))
TYPE, TIME = ("u8", 1), ("u64", 1_700_000_000_000)
NAME16 = b"checkout_started"
SERVICE16 = b"checkout-service"
BODY = b'{"n":1}'

Row = list[Any]


def sdk(service: Any, device: Any, session: Any, name: Any, payload: Any) -> Row:
    return [TYPE, TIME, service, device, session, name, payload]


def collector(device: Any, session: Any, name: Any, payload: Any) -> Row:
    return [TYPE, TIME, device, session, name, payload]


@pytest.mark.parametrize(
    "row",
    [
        sdk(b"api", DEVICE, SESSION, b"view", BODY),
        sdk(None, None, None, None, BODY),
        sdk(SERVICE16, DEVICE, SESSION, NAME16, BODY),
        sdk(None, DEVICE, SESSION, b"view", None),
        sdk(b"api", DEVICE, SESSION, NAME16, None),
        sdk(SERVICE16, DEVICE, SESSION, b"view", None),
        sdk(b"api", DEVICE, SESSION, None, None),
        sdk(b"api", DEVICE, None, None, None),
        sdk(b"api", None, None, None, None),
        sdk(None, None, SESSION, None, None),
    ],
)
def test_sdk_tables_are_known_even_when_cut_short(oracle: Any, row: Row) -> None:
    """A builder leaves out empty slots at the end; what is left still says whose it is."""
    message = oracle.build_rows([_trimmed(row)])
    assert _decoded(oracle, message) == oracle.events(message, "v2")


@pytest.mark.parametrize(
    "row",
    [
        collector(DEVICE, SESSION, b"view", BODY),
        collector(DEVICE, SESSION, NAME16, BODY),
        collector(None, SESSION, NAME16, BODY),
        collector(None, None, b"view", BODY),
        collector(None, None, None, BODY),
        collector(b"wrong length", None, b"view", BODY),
        collector(DEVICE, None, NAME16, None),
        collector(DEVICE, SESSION, "käse_beställning".encode()[:16], None),
        collector(DEVICE, SESSION, None, None),
        collector(DEVICE, None, None, None),
        collector(None, None, b"view", None),
        collector(None, None, NAME16, None),
    ],
)
def test_collector_tables_are_known_even_when_cut_short(oracle: Any, row: Row) -> None:
    """Names of 16 bytes and missing ids don't make them look like the other dialect."""
    message = oracle.build_rows([_trimmed(row)])
    assert _decoded(oracle, message) == oracle.events(message, "v1")


def test_both_dialects_in_one_message(oracle: Any) -> None:
    """A forwarder may mix them: each table is judged by itself."""
    rows = [sdk(b"api", DEVICE, SESSION, b"a", BODY), collector(DEVICE, SESSION, b"b", BODY)] * 3
    message = oracle.build_rows(rows)
    decoded = _decoded(oracle, message)
    assert [row["event_name"] for row in decoded] == ["a", "b"] * 3
    assert [row["service"] for row in decoded] == ["api", None] * 3


@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_a_forced_dialect_is_obeyed(oracle: Any, dialect: str) -> None:
    """Forced, a table is read by that layout whatever it looks like."""
    rows = [sdk(b"api", DEVICE, SESSION, b"a", BODY), collector(DEVICE, SESSION, b"b", BODY)]
    for row in rows:
        message = oracle.build_rows([row])
        assert _decoded(oracle, message, dialect) == oracle.events(message, dialect)


def test_an_unknown_dialect_is_refused(oracle: Any) -> None:
    """A typing mistake does not silently mean auto."""
    with pytest.raises(ValueError, match=r"dialect 'v3'.*auto, v1, v2"):
        decode_events(oracle.batch([]), "v3")  # type: ignore[arg-type]


def _trimmed(row: Row) -> Row:
    row = list(row)
    while row and row[-1] is None:
        row.pop()
    return row


def _decoded(oracle: Any, message: bytes, dialect: Any = "auto") -> list[dict[str, Any]]:
    decoded = decode_events(oracle.batch([message]), dialect)
    assert decoded.damaged.size == 0
    record = ["message_index", "received_at_ms", "source_ip"]
    rows: list[dict[str, Any]] = decoded.table.drop_columns(record).to_pylist()
    return rows
