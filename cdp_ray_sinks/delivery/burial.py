"""What becomes of batches and messages that a sink will never take."""

from __future__ import annotations

from collections.abc import Mapping

from cdp_ray_sinks.batch.batch import BatchId
from cdp_ray_sinks.delivery.lane_items import DeadLetters, LaneItem, RefusedEntry
from cdp_ray_sinks.delivery.push import DEAD_LETTERED
from cdp_ray_sinks.errors import RefusedMessagesError, SinkError
from cdp_ray_sinks.metrics import SinkMetrics


class Burial:
    """Puts them among the dead letters and counts them. Raises what `DeadLetters.put` raises."""

    def __init__(self, dead_letters: DeadLetters, metrics: SinkMetrics) -> None:
        self._dead_letters = dead_letters
        self._metrics = metrics

    def bury(self, item: LaneItem, error: SinkError, messages: tuple[int, ...] | None) -> None:
        """Some messages of a batch that was being written; None: all, and that is its outcome."""
        self._dead_letters.put(item.batch, messages, error)
        count = item.batch.header.message_count if messages is None else len(messages)
        self._metrics.add(dead_letters=count)
        if messages is None:
            item.outcome = DEAD_LETTERED

    def bury_refused(self, items: Mapping[BatchId, LaneItem], error: RefusedMessagesError) -> None:
        """What a flush found out; the rest of those batches has landed."""
        found: dict[BatchId, list[RefusedEntry]] = {}
        for batch_id, message, entry, reason in error.refusals:
            refused = RefusedEntry(message, entry, reason)
            found.setdefault(BatchId(*batch_id), []).append(refused)
        for id_, refusals in found.items():
            item = items.get(id_)
            if item is not None:
                self._dead_letters.put_entries(item.batch, refusals)
                self._metrics.add(dead_letters=len(refusals))
