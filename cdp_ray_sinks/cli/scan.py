"""`cdp-sinks scan`: what an archive holds, worked out from its messages alone.

Nothing of the index's or the ledger's counts is used: every message is decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import (
    DecodeBuffers,
    decode_events,
    decode_logs,
    decode_metrics,
    decode_snapshots,
    decode_traces,
)
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.kernels.running_number import NUMBER_COUNT_MAX, RunningNumbers
from cdp_ray_sinks.cli.archive_reading import check_paths
from cdp_ray_sinks.cli.cat import time_text
from cdp_ray_sinks.cli.output import Complaints, count_text, print_json
from cdp_ray_sinks.cli.progress import byte_bar
from cdp_ray_sinks.errors import ConfigError, MalformedMessageError
from cdp_ray_sinks.files.archive import stored_bytes
from cdp_ray_sinks.files.archive_reading import ALL, read_located, selected_segments
from cdp_ray_sinks.files.record_scan import received_times
from cdp_ray_sinks.files.row_selection import wanted_rows
from cdp_ray_sinks.files.selection import Selection


class ArchiveScan:
    """Counts over batches; `numbers` are looked for in the payloads of events and logs."""

    def __init__(self, numbers: RunningNumbers | None, selection: Selection = ALL) -> None:
        self.records = 0
        self.events = 0
        self.damaged = Complaints("damaged")
        self.undecodable = Complaints("undecodable, kept as received")
        self.first_ms: int | None = None
        self.last_ms: int | None = None
        self.numbers = numbers
        self._selection = selection
        self._buffers = DecodeBuffers()

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        self.records += len(batch.offsets) - 1
        self.events += self._decode(batch)
        if len(batch.offsets) > 1:
            times = received_times(batch.records, batch.offsets.astype("i8"))
            first, last = int(times.min()), int(times.max())
            self.first_ms = first if self.first_ms is None else min(self.first_ms, first)
            self.last_ms = last if self.last_ms is None else max(self.last_ms, last)

    def _decode(self, batch: Batch) -> int:
        """How many events, log entries, metrics, spans or snapshots the batch holds."""

        def tell(message: int, error: MalformedMessageError) -> None:
            self.undecodable.tell(f"batch {batch.header.batch_id}, message {message}: {error}")

        match batch.header.schema_type:
            case SchemaType.EVENT:
                decoded = decode_events(batch, buffers=self._buffers)
            case SchemaType.LOG:
                decoded = decode_logs(batch, buffers=self._buffers)
            case SchemaType.METRIC:
                return len(decode_metrics(batch, tell))
            case SchemaType.TRACE:
                return len(decode_traces(batch, tell))
            case SchemaType.SNAPSHOT:
                return len(decode_snapshots(batch, tell))
            case _:
                return 0
        for text in decoded.damage_texts():
            self.undecodable.tell(f"batch {batch.header.batch_id}, {text}")
        table = wanted_rows(decoded.table, batch.header.schema_type, self._selection)
        if self.numbers is not None:
            self.numbers.add(table.column("payload"))
        return int(table.num_rows)

    def to_dict(self) -> dict[str, Any]:
        """The shape of `scan --json`."""
        found: dict[str, Any] = {
            "records": self.records,
            "events": self.events,
            "first_time": None if self.first_ms is None else time_text(self.first_ms),
            "last_time": None if self.last_ms is None else time_text(self.last_ms),
        }
        if self.numbers is not None:
            found["missing"] = self.numbers.missing
            found["duplicated"] = self.numbers.duplicated
        return found


def scan_archive(
    path: Path, synthetic_count: int | None, as_json: bool, selection: Selection = ALL
) -> int:
    """Print the counts of what is selected.

    1 if numbers are missing or there twice, or something is damaged.
    """
    if synthetic_count is not None and synthetic_count > NUMBER_COUNT_MAX:
        raise ConfigError(f"--check-synthetic: at most {NUMBER_COUNT_MAX} numbers can be checked")
    numbers = None if synthetic_count is None else RunningNumbers(synthetic_count)
    scan = ArchiveScan(numbers, selection)
    check_paths([path])
    with byte_bar("scanning", is_quiet=as_json) as advance:
        total_bytes = 0
        if advance is not None:
            total_bytes = sum(stored_bytes(s.path) for s in selected_segments(path, selection))
        for found in read_located([path], scan.damaged.tell, selection):
            scan.add(found.batch)
            if advance is not None:
                advance(found.read_bytes, total_bytes)
    scan.damaged.tell_rest()
    scan.undecodable.tell_rest()
    if as_json:
        print_json(scan.to_dict())
    else:
        _print_scan(scan)
    is_whole = numbers is None or (numbers.missing == 0 and numbers.duplicated == 0)
    return 0 if is_whole and not scan.damaged.count else 1


def _print_scan(scan: ArchiveScan) -> None:
    found = scan.to_dict()
    print(f"{count_text(scan.records)} records, {count_text(scan.events)} events")
    print(f"received from {found['first_time'] or '-'} to {found['last_time'] or '-'}")
    if scan.numbers is None:
        return
    print(
        f"{count_text(found['missing'])} missing, {count_text(found['duplicated'])} duplicated, "
        f"{count_text(scan.numbers.foreign)} payloads without a number in range"
    )
    if found["missing"]:
        lowest = ", ".join(map(str, scan.numbers.first_missing()))
        print(f"lowest missing: {lowest}")
