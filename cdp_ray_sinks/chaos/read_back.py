"""Reads the destinations back: what is there of the running numbers, in which order."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events, decode_logs
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.chaos.report import Destination
from cdp_ray_sinks.files.archive import VerifyReport, verify
from cdp_ray_sinks.files.archive_reading import read_batches
from cdp_ray_sinks.writers.warehouse_check import verify_warehouse

LOWEST_MAX: Final = 5
DAMAGE_MAX: Final = 5
READ_BYTES: Final = 1 << 23
TIMEOUT_S: Final = 300
_TABLES: Final = {"events_v1": "properties", "logs_v1": "message"}


class Expected:
    """Which running numbers there may be: below `count`; those in `ranges` must be there."""

    def __init__(self, count: int, ranges: Sequence[tuple[int, int]]) -> None:
        self.count = count
        self.ranges = list(ranges)

    @property
    def must(self) -> int:
        """How many must be there."""
        return sum(end - start for start, end in self.ranges)

    def compare(self, numbers: RunningNumbers, into: Destination) -> None:
        """Count what is missing, twice and strange."""
        into.expected = self.must
        into.found = self.count - numbers.missing
        into.lost = sum(numbers.missing_in(start, end) for start, end in self.ranges)
        into.twice = numbers.duplicated
        into.strange = numbers.foreign
        for start, end in self.ranges:
            into.lowest_lost += numbers.first_missing(LOWEST_MAX, start, end)
        del into.lowest_lost[LOWEST_MAX:]


def read_archive(name: str, base: Path, expected: Expected) -> Destination:
    """An archive: its events decoded, its order, every byte proven."""
    found, numbers = Destination(name, "disk_binary", disordered=0), RunningNumbers(expected.count)
    buffers, newest = DecodeBuffers(), dict[tuple[bytes, int, int, int], int]()
    damage: list[object] = []
    for _, batch in read_batches([base], damage.append) if base.is_dir() else ():
        numbers.add(_payloads(batch, buffers))
        header = batch.header
        key = (header.producer, header.epoch, header.workspace_id, header.schema_type)
        found.disordered = (found.disordered or 0) + (header.sequence < newest.get(key, -1))
        newest[key] = max(header.sequence, newest.get(key, -1))
    found.damage = [str(text) for text in damage[:DAMAGE_MAX]]
    if base.is_dir() and not damage:
        found.damage = _damage(verify(base))
    expected.compare(numbers, found)
    return found


def _payloads(batch: Batch, buffers: DecodeBuffers) -> object:
    is_log = batch.header.schema_type == SchemaType.LOG
    decode = decode_logs if is_log else decode_events
    return decode(batch, buffers=buffers).table.column("payload")


def read_tables(name: str, base: Path, expected: Expected) -> Destination:
    """Parquet files, by the Parquet reader; the journal must be empty of events by now."""
    found, numbers = Destination(name, "parquet"), RunningNumbers(expected.count)
    for path in sorted(base.rglob("*.parquet")):
        for rows in pq.ParquetFile(path).iter_batches(columns=["payload"]):
            numbers.add(rows.column(0))
    if base.is_dir():
        found.damage = _damage(verify_warehouse(base))
    expected.compare(numbers, found)
    return found


def read_rows(name: str, url: str, expected: Expected) -> Destination:
    """ClickHouse's rows of events and log entries, asked for over HTTP."""
    found, numbers = Destination(name, "clickhouse"), RunningNumbers(expected.count)
    for table, column in _TABLES.items():
        sql = f"SELECT simpleJSONExtractUInt({column}, 'n') FROM chaos.{table} FORMAT RowBinary"
        address = f"{url}/?{urllib.parse.urlencode({'query': sql})}"
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
            while content := answer.read(READ_BYTES):
                numbers.add_numbers(np.frombuffer(content, "<u8"))
    expected.compare(numbers, found)
    return found


def _damage(report: VerifyReport) -> list[str]:
    return [str(each) for each in report.damaged[:DAMAGE_MAX]]
