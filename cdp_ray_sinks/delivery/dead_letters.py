"""Dead letters: what a sink will never take, kept with its reason."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.clock import Clock
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
        if not self._is_open:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._archive.open()
            self._is_open = True
        buried = batch if failed_messages is None else select_messages(batch, failed_messages)
        self._archive.write(buried)
        self._archive.flush()
        line = json.dumps(
            {
                "sink": self._sink_name,
                "at_ms": self._clock.now_ms(),
                "reason": str(error),
                "error": type(error).__name__,
                "batch": str(batch.header.batch_id),
                "source": batch.header.source_id,
                "workspace_id": batch.header.workspace_id,
                "messages": buried.header.message_count,
            }
        )
        with (self._directory / REASONS_FILE).open("a", encoding="utf-8") as reasons:
            reasons.write(line + "\n")
            reasons.flush()
            os.fsync(reasons.fileno())

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
    header = batch.header._replace(
        message_count=len(places),
        event_count=0,
        record_bytes=len(records),
        checksum=xxh3(records),
        records_start=0,
        offsets_start=0,
    )
    return replace(batch, header=header, records=records, offsets=np.cumsum(lengths))
