"""The ledger: which batches are durable, kept with the data they describe.

Per (producer, epoch): `low`, below which everything is settled, and the set of durable
sequences at or above it. A lane sees a sparse subset of a producer's sequences, so a
higher one being durable says nothing about a lower one. Only the producer's own lowest
unsettled sequence raises `low`, which bounds the set by the producer's window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cdp_ray_sinks.errors import BatchConflictError

RETENTION_H = 168


@dataclass(slots=True)
class LedgerEntry:
    """What is known of one producer epoch; `durable` maps sequence to checksum."""

    producer: bytes
    epoch: int
    low: int = 0
    last_seen_ms: int = 0
    durable: dict[int, int] = field(default_factory=dict)


class Ledger:
    """Durable batch ids of one lane. Not thread-safe: its lane's writer owns it."""

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        self._entries: dict[tuple[bytes, int], LedgerEntry] = {}
        self.merge(entries)

    def has(self, producer: bytes, epoch: int, sequence: int, checksum: int) -> bool:
        """Whether that batch is durable here.

        Raises BatchConflictError if it is, but with another checksum. Below `low` the
        checksum is no longer known and the id alone decides.
        """
        entry = self._entries.get((producer, epoch))
        if entry is None:
            return False
        if sequence < entry.low:
            return True
        known = entry.durable.get(sequence)
        if known is None:
            return False
        if known != checksum:
            raise BatchConflictError(
                f"batch {producer.hex()[:8]}.{epoch:x}.{sequence} came with checksum "
                f"{checksum:016x} but is durable with {known:016x}"
            )
        return True

    def add(self, producer: bytes, epoch: int, sequence: int, checksum: int, now_ms: int) -> None:
        """Note a batch as durable. Call it only after its bytes are."""
        entry = self._entry(producer, epoch)
        entry.last_seen_ms = max(entry.last_seen_ms, now_ms)
        if sequence >= entry.low:
            entry.durable[sequence] = checksum

    def raise_low(self, producer: bytes, epoch: int, low: int) -> None:
        """Forget sequences below the producer's lowest unsettled one; never lowers it."""
        entry = self._entry(producer, epoch)
        if low <= entry.low:
            return
        entry.low = low
        for sequence in [s for s in entry.durable if s < low]:
            del entry.durable[sequence]

    def low_of(self, producer: bytes, epoch: int) -> int:
        """The lowest sequence of that epoch that may still be unsettled."""
        entry = self._entries.get((producer, epoch))
        return 0 if entry is None else entry.low

    def expire(self, now_ms: int, retention_h: int = RETENTION_H) -> int:
        """Drop epochs unseen for `retention_h`; returns how many."""
        oldest_ms = now_ms - retention_h * 3_600_000
        gone = [key for key, entry in self._entries.items() if entry.last_seen_ms < oldest_ms]
        for key in gone:
            del self._entries[key]
        return len(gone)

    def snapshot(self) -> Sequence[LedgerEntry]:
        """The live entries, for writing; do not change them."""
        return list(self._entries.values())

    def merge(self, entries: Iterable[LedgerEntry]) -> None:
        """Join what another index knows: the union of the sets, the higher `low`."""
        for other in entries:
            entry = self._entry(other.producer, other.epoch)
            entry.durable.update(other.durable)
            entry.last_seen_ms = max(entry.last_seen_ms, other.last_seen_ms)
            entry.low = max(entry.low, other.low)
            for sequence in [s for s in entry.durable if s < entry.low]:
                del entry.durable[sequence]

    def _entry(self, producer: bytes, epoch: int) -> LedgerEntry:
        key = (producer, epoch)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = LedgerEntry(producer, epoch)
        return entry
