"""The batches that are measured with: synthetic, distinct, built beforehand."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.encoding import encode_events
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.testing import BatchKeeper


def synthetic_batches(events: int, shape: str, batch_events: int) -> list[Batch]:
    """Batches of the synthetic source with running numbers 0 to events - 1."""
    return _made(events=events, shape=shape, batch_events=batch_events)


def spread_batches(events: int, shape: str, workspaces: int, first_number: int = 0) -> list[Batch]:
    """The same over workspaces 1 to `workspaces`, numbers from `first_number` on."""
    return _made(events=events, shape=shape, workspaces=workspaces, start_number=first_number)


def _made(**options: object) -> list[Batch]:
    config = load_source_config("synthetic", options)
    keeper = BatchKeeper()
    config.build(SourceContext("bench")).run(keeper, threading.Event())
    return keeper.batches


def moved(batches: Sequence[Batch], workspace_id: int) -> list[Batch]:
    """The same batches for another workspace."""
    return [
        Batch(b.header._replace(workspace_id=workspace_id), b.records, b.offsets, b.pattern_ids)
        for b in batches
    ]


def without_number(batch: Batch) -> Batch:
    """A batch of one event that holds no running number, received when that batch was."""
    received_at_ms = batch.header.received_at_ms
    records, offsets = encode_events(
        np.ones(1, np.uint8), np.array([received_at_ms]), names=pa.array(["opener"]),
        payloads=pa.array([b"{}"]), events_per_message=1, received_at_ms=received_at_ms,
    )  # fmt: skip
    header = batch.header._replace(
        message_count=1, event_count=1, record_bytes=len(records), checksum=xxh3(records)
    )
    return Batch(header, records, offsets)
