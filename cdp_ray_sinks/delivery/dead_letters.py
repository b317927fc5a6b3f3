"""Dead letters: what a sink will never take, kept with its reason."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch, Bytes, Offsets
from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.encoding import encode_events, encode_logs
from cdp_ray_sinks.batch.enums import METADATA_BYTES, SchemaType
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.delivery.lane_items import RefusedEntry
from cdp_ray_sinks.errors import SinkError
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.disk_binary import DiskBinaryConfig

REASONS_FILE = "reasons.jsonl"


class DeadLetterArchive:
    """Dead letters as a disk_binary archive, and a line of JSON per refusal beside it."""

    def __init__(self, directory: Path, sink_name: str, clock: Clock) -> None:
        self._directory = directory / sink_name
        self._sink_name = sink_name
        self._clock = clock
        config = DiskBinaryConfig(type="disk_binary", path=str(self._directory))
        self._archive = config.build(SinkContext(f"{sink_name}-dead-letters", clock))
        self._is_open = False

    def put(self, batch: Batch, failed_messages: tuple[int, ...] | None, error: SinkError) -> None:
        """Append to the archive, sync, then append the reason."""
        buried = batch if failed_messages is None else select_messages(batch, failed_messages)
        self._keep(buried)
        self._tell(batch, {(type(error).__name__, str(error)): buried.header.message_count})

    def put_entries(self, batch: Batch, refusals: Sequence[RefusedEntry]) -> None:
        """As `put`; of a message that was taken in part, a message with the rest is kept."""
        whole = sorted({refusal.message for refusal in refusals if refusal.entry is None})
        cut = [r.entry for r in refusals if r.entry is not None and r.message not in whole]
        if whole:
            self._keep(select_messages(batch, tuple(whole)))
        if cut:
            self._keep(select_entries(batch, cut))
        self._tell(batch, Counter(("RefusedMessagesError", r.reason) for r in refusals))

    def _keep(self, buried: Batch) -> None:
        if not self._is_open:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._archive.open()
            self._is_open = True
        self._archive.write(buried)
        self._archive.flush()

    def _tell(self, batch: Batch, reasons: Mapping[tuple[str, str], int]) -> None:
        """A line of JSON for each reason, with how many messages have it."""
        header = batch.header
        with (self._directory / REASONS_FILE).open("a", encoding="utf-8") as file:
            for (error, reason), count in reasons.items():
                line = {
                    "sink": self._sink_name,
                    "at_ms": self._clock.now_ms(),
                    "reason": reason,
                    "error": error,
                    "batch": str(header.batch_id),
                    "source": header.source_id,
                    "workspace_id": header.workspace_id,
                    "messages": count,
                }
                file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the archive if anything was ever put in it."""
        if self._is_open:
            self._archive.close()
            self._is_open = False


def select_messages(batch: Batch, places: tuple[int, ...]) -> Batch:
    """A batch of some messages of another, copied, under the same id."""
    starts, ends = batch.offsets[:-1].tolist(), batch.offsets[1:].tolist()
    records = np.concatenate([batch.records[starts[p] : ends[p]] for p in places])
    lengths = np.array([0, *(ends[p] - starts[p] for p in places)], np.uint64)
    return _as_batch(batch, records, np.cumsum(lengths))


def select_entries(batch: Batch, entries: Sequence[int]) -> Batch:
    """A batch of some entries of another, each in a message of its own, under the same id.

    `entries` are places among all entries of the batch that decode.
    """
    if batch.header.schema_type == SchemaType.LOG:
        rows = decode_logs(batch).table.take(pa.array(entries, pa.int64()))
        made, offsets = encode_logs(
            rows["event_type"], rows["level"], rows["timestamp"], rows["session_id"],
            rows["source"], rows["service"], rows["payload"], events_per_message=1,
        )  # fmt: skip
    else:
        rows = decode_events(batch).table.take(pa.array(entries, pa.int64()))
        made, offsets = encode_events(
            rows["event_type"], rows["timestamp"], rows["device_id"], rows["session_id"],
            rows["event_name"], rows["service"], rows["payload"], events_per_message=1,
        )  # fmt: skip
    records = made.copy()
    sources = rows["message_index"].to_pylist()
    for start, message in zip(offsets[:-1].tolist(), sources, strict=True):
        metadata = batch.records[int(batch.offsets[message]) :][:METADATA_BYTES]
        records[start : start + METADATA_BYTES] = metadata
    return _as_batch(batch, records, offsets)


def _as_batch(batch: Batch, records: Bytes, offsets: Offsets) -> Batch:
    header = batch.header._replace(
        message_count=len(offsets) - 1,
        event_count=0,
        record_bytes=len(records),
        checksum=xxh3(records),
        records_start=0,
        offsets_start=0,
    )
    return replace(batch, header=header, records=records, offsets=offsets)
