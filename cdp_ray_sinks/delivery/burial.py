"""What becomes of batches and messages that a sink will never take."""

from __future__ import annotations

from collections.abc import Mapping

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.delivery.lane_items import DeadLetters, LaneItem, RefusedEntry
from cdp_ray_sinks.delivery.push import DEAD_LETTERED
from cdp_ray_sinks.errors import RefusedMessagesError, SinkError
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.metrics import SinkMetrics


class Burial:
    """Puts them among the dead letters and counts them. Raises what `DeadLetters.put` raises.

    It remembers which batches became dead letters as a whole: no sink's ledger has those.
    """

    def __init__(self, dead_letters: DeadLetters, metrics: SinkMetrics) -> None:
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._buried = Ledger()

    def has(self, header: BatchHeader, low: int) -> bool:
        """Whether the batch, asked for again, is a dead letter; see `Ledger.has`."""
        producer, epoch = header.producer, header.epoch
        self._buried.raise_low(producer, epoch, low)
        known = self._buried.has(producer, epoch, header.sequence, header.checksum)
        return known and header.sequence >= self._buried.low_of(producer, epoch)

    def bury(self, item: LaneItem, error: SinkError, messages: tuple[int, ...] | None) -> None:
        """Some messages of a batch that was being written; None: all, and that is its outcome."""
        self._dead_letters.put(item.batch, messages, error)
        count = item.batch.header.message_count if messages is None else len(messages)
        self._metrics.add(dead_letters=count)
        if messages is None:
            item.outcome = DEAD_LETTERED
            h = item.batch.header
            self._buried.add(h.producer, h.epoch, h.sequence, h.checksum, h.received_at_ms)

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

    def close(self) -> None:
        """Release the archive of dead letters."""
        self._dead_letters.close()
