"""Files written by version 1 of the columns: every later version must write and mean the same.

The bytes may differ with the library that writes them; columns, values and metadata may not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings, read_footer

GOLDEN = Path(__file__).parents[1] / "golden" / "parquet"
STREAMS = {"events": 1, "logs": 2, "metrics": 3, "traces": 4, "snapshots": 5}
HERE = bytes(10) + b"\xff\xff\x0a\x00\x00\x07"
THERE = bytes.fromhex("20010db8000000000000000000000001")
RECEIVED_MS = 1_767_225_600_000
FIRST, SECOND = bytes(range(16)), bytes(range(16, 32))
METADATA = {"journal_id": "42.1.3.1767225600000", "ledger": "bGVkZ2Vy"}


def u8(number: int) -> tuple[str, int]:
    return "u8", number


def u64(number: int) -> tuple[str, int]:
    return "u64", number


def messages(stream: str) -> list[list[list[Any]]]:
    """The tables of three messages of a stream, field by field."""
    early, late = u64(RECEIVED_MS - 2), u64(RECEIVED_MS - 1)
    ns = u64((RECEIVED_MS - 1) * 1_000_000 + 7)
    return {
        "events": [
            [[u8(1), late, b"web", FIRST, SECOND, b"Page Viewed", b'{"n":1}']],
            [
                [u8(2), early, None, FIRST, None, None, '{"name":"Zoë"}'.encode()],
                [u8(9), u64(2**64 - 1), b"", b"short", SECOND, b"", b"\xff{}"],
            ],
            [[u8(6), late, FIRST, SECOND, b"", b"collector"]],
        ],
        "logs": [
            [[u8(1), SECOND, u8(3), late, b"host", b"api", b"disk full"]],
            [[u8(2), None, None, early, None, None, b"\xc3"], [u8(0), None, u8(8), early, None]],
            [[u8(1), None, u8(0), u64(253_402_300_800_000), b"", b"api", b""]],
        ],
        "metrics": [
            [[u8(1), ns, b"cpu", u64(0x4046A00000000000), b"host", b"api"]],
            [[u8(7), u64(2**63 - 1), b"odd", u64(0), None, None, None, u8(2), None, SECOND]],
            [[]],
        ],
        "traces": [
            [[FIRST, SECOND[:8], b"", ns, u64(5_000), b"GET /", u8(2), u8(1), b"edge", b"web"]],
            [[
                FIRST, FIRST[:8], SECOND[:8], u64(1), u64(0), None, u8(9), u8(0), None, None,
                SECOND,
            ]],
            [[
                None, None, None, u64(2**64 - 1), u64(2**64 - 1), b"", None, None, None, None,
                None, b"\xfe",
            ]],
        ],
        "snapshots": [
            [[late, b"crm", b"account/7", b'{"plan":"pro"}']],
            [[early, None, None, None]],
            [[u64(2**64 - 1), b"", b"", b"\xff"]],
        ],
    }[stream]  # fmt: skip


def write(stream: str, path: Path, oracle: Any, parquet_bench: Any) -> None:
    """The golden file of a stream, as today's version writes it."""
    content = [oracle.build_rows(rows, STREAMS[stream]) for rows in messages(stream)]
    addresses = (HERE, THERE, HERE)
    times = range(RECEIVED_MS, RECEIVED_MS + 3)
    sent = list(zip(content, times, addresses, strict=True))
    batches = [parquet_bench.batch(part, STREAMS[stream]) for part in (sent[:2], sent[2:])]
    file = ParquetFile(path, stream, 42, ParquetSettings(row_group_rows=3))
    for batch in batches:
        assert not file.add([batch]).damaged
    file.finish(METADATA)


@pytest.mark.parametrize("stream", STREAMS)
def test_todays_files_are_the_same(
    stream: str, tmp_path: Path, oracle: Any, parquet_bench: Any
) -> None:
    """Columns with their physical and logical types, rows in their groups, metadata."""
    path = tmp_path / "today.parquet"
    write(stream, path, oracle, parquet_bench)
    golden, today = pq.ParquetFile(GOLDEN / f"{stream}.parquet"), pq.ParquetFile(path)
    assert str(today.schema).split("\n")[1:] == str(golden.schema).split("\n")[1:]
    assert today.schema_arrow.equals(golden.schema_arrow)
    assert today.num_row_groups == golden.num_row_groups == 2
    for group in range(2):
        assert today.read_row_group(group).equals(golden.read_row_group(group))
    assert read_footer(path) == read_footer(GOLDEN / f"{stream}.parquet")


def test_the_golden_events_say_what_they_said(parquet_bench: Any) -> None:
    """To the last field."""
    rows = parquet_bench.rows(pq.ParquetFile(GOLDEN / "events.parquet"))
    common = {"workspace_id": 42, "timestamp_raw": None, "payload_bytes": None}
    here = common | {"batch_timestamp": RECEIVED_MS, "source_ip": "10.0.0.7"}
    there = common | {"batch_timestamp": RECEIVED_MS + 1, "source_ip": "2001:db8::1"}
    first, second = UUID(bytes=FIRST), UUID(bytes=SECOND)
    assert rows == [
        there | {
            "timestamp": RECEIVED_MS - 2, "event_type": "identify", "event_name": None,
            "service": None, "device_id": first, "session_id": None,
            "payload": '{"name":"Zoë"}',
        },
        here | {
            "timestamp": RECEIVED_MS - 1, "event_type": "track", "event_name": "Page Viewed",
            "service": "web", "device_id": first, "session_id": second, "payload": '{"n":1}',
        },
        there | {
            "timestamp": None, "timestamp_raw": 2**63 - 1, "event_type": "unknown",
            "event_name": "", "service": "", "device_id": None, "session_id": second,
            "payload": None, "payload_bytes": b"\xff{}",
        },
        here | {
            "batch_timestamp": RECEIVED_MS + 2, "timestamp": RECEIVED_MS - 1,
            "event_type": "context", "event_name": "", "service": None, "device_id": first,
            "session_id": second, "payload": "collector",
        },
    ]  # fmt: skip


def test_the_golden_footer_says_what_it_said() -> None:
    """Counts, owner and what the owner added."""
    footer = read_footer(GOLDEN / "events.parquet")
    assert (footer.stream, footer.workspace_id, footer.schema_version) == ("events", 42, 1)
    assert (footer.rows, footer.messages, footer.row_groups) == (4, 3, 2)
    assert footer.metadata == METADATA
