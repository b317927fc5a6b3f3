"""The null sink counts what it is given."""

from __future__ import annotations

import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.builder import batch_of_messages
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.null import NullConfig, NullSink
from cdp_ray_sinks.sinks.registry import load_config


def test_it_counts_batches_events_and_bytes() -> None:
    """The event count is the header's, the bytes are those that are mapped."""
    sink = NullConfig().build(SinkContext("nothing"))
    batch = batch_of_messages([b"not a message", b"nor this"], workspace_id=1)
    batch = Batch(batch.header._replace(event_count=7), batch.records, batch.offsets)
    sink.open()
    for _ in range(3):
        sink.write(batch)
    sink.flush()
    sink.close()
    assert (sink.batches, sink.events) == (3, 21)
    assert sink.record_bytes == 3 * len(batch.records)


def test_a_batch_whose_offsets_are_wrong_is_refused() -> None:
    """It looks at the last offset, which shows that the batch really is mapped."""
    batch = batch_of_messages([b"message"], workspace_id=1)
    torn = Batch(batch.header, batch.records[:-1], batch.offsets)
    with pytest.raises(ValueError, match="offsets"):
        NullSink().write(torn)


def test_it_has_no_options_of_its_own() -> None:
    """A key of another sink is refused by name."""
    assert load_config("null", {}) == NullConfig()
    with pytest.raises(ConfigError, match=r"path: unknown key"):
        load_config("null", {"path": "x"})
