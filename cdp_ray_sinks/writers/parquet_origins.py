"""Whose batches a Parquet file holds and of which hours, for its footer.

As text it is JSON: `[[producer in hex, epoch, hour since 1970 in which they were received,
batches, messages, events], …]`, the last two as the headers of the batches say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.files.landed import Count, Origin
from cdp_ray_sinks.files.partition import HOUR_MS


def origins_of_batches(batches: Iterable[Batch]) -> dict[Origin, Count]:
    """The origins of these."""
    found: dict[Origin, Count] = {}
    for header in (batch.header for batch in batches):
        hour = header.received_at_ms // HOUR_MS
        origin = Origin(header.producer, header.epoch, header.workspace_id, hour)
        found.setdefault(origin, Count()).add(1, header.message_count, header.event_count)
    return found


def origins_text(origins: Mapping[Origin, Count]) -> str:
    """What `origins_of` reads back."""
    rows = [
        [o.producer.hex(), o.epoch, o.hour, c.batches, c.messages, c.events]
        for o, c in origins.items()
    ]
    return json.dumps(rows, separators=(",", ":"))


def origins_of(text: str, workspace_id: int) -> dict[Origin, Count]:
    """From the text; raises ValueError if it is none."""
    try:
        return {
            Origin(bytes.fromhex(producer), int(epoch), workspace_id, int(hour)): Count(
                int(batches), int(messages), int(events)
            )
            for producer, epoch, hour, batches, messages, events in json.loads(text)
        }
    except TypeError as error:
        raise ValueError(f"not origins: {error}") from None
