"""Which messages of a batch do not decode, found without decoding it."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import REASONS
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.count import count_records
from cdp_ray_sinks.batch.messages import decode_metrics, decode_snapshots, decode_traces
from cdp_ray_sinks.errors import MalformedMessageError

_DECODERS: Final = {
    SchemaType.METRIC: decode_metrics,
    SchemaType.TRACE: decode_traces,
    SchemaType.SNAPSHOT: decode_snapshots,
}


class DamagedMessage(NamedTuple):
    """A message that leaves no row: its place in the batch, and why."""

    message: int
    reason: str


def damaged_messages(batch: Batch) -> list[DamagedMessage]:
    """Exactly those messages that the decoder of the batch's schema gives no row for.

    Events and log entries are walked, which costs half as much as decoding them; metrics,
    spans and snapshots are decoded. The batch's offsets must fit its records. Raises
    ValueError for a schema that has no decoder.
    """
    schema_type = batch.header.schema_type
    if schema_type in (SchemaType.EVENT, SchemaType.LOG):
        counted = np.empty((batch.header.message_count, 5), np.int64)
        count_records(readonly(batch.records), readonly(batch.offsets), schema_type, counted)
        return [
            DamagedMessage(place, REASONS[int(counted[place, 0])])
            for place in np.flatnonzero(counted[:, 0]).tolist()
        ]
    decode = _DECODERS.get(SchemaType(schema_type))
    if decode is None:
        raise ValueError(f"messages of schema {schema_type} have no decoder")
    found: list[DamagedMessage] = []

    def note(message: int, error: MalformedMessageError) -> None:
        found.append(DamagedMessage(message, str(error)))

    decode(batch, note)
    return found
