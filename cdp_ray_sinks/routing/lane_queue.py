"""What waits for one lane, and whose turn it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from cdp_ray_sinks.delivery.push import GROUP_SHARED_MAX, Payload
from cdp_ray_sinks.routing.flights import RoutedBatch

WORKSPACE_SHARE = 2
"""Where several workspaces share a lane, none holds more than this part of what it may hold."""


class LaneQueue:
    """Batches of one workspace stay in order; workspaces take turns, a batch each.

    So a workspace that floods a lane waits behind one batch of every other, and one that is
    stuck leaves room for the others. With `by_workspace` False it is a plain queue.
    `held_bytes_max` bounds what is taken and not yet settled; a batch larger than that goes
    alone.
    """

    def __init__(self, *, by_workspace: bool, held_bytes_max: int) -> None:
        self._by_workspace = by_workspace
        self._held_bytes_max = held_bytes_max
        self._waiting: dict[int, deque[RoutedBatch]] = {}
        self._turns: deque[int] = deque()
        self._held: dict[int, int] = {}
        self._count = 0
        self.waiting_bytes = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RoutedBatch]:
        """All that wait, each workspace's in order."""
        for key in self._turns:
            yield from self._waiting[key]

    def append(self, batch: RoutedBatch) -> None:
        """Wait behind the workspace's others."""
        key = self._key(batch)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
            self._turns.append(key)
        waiting.append(batch)
        self._count += 1
        self.waiting_bytes += batch.header.record_bytes

    def take(self, batches_max: int, bytes_max: int) -> list[RoutedBatch]:
        """Those whose turn it is, as many as one call carries and the lane may hold.

        At least one, unless what is held leaves no room. Batches in a row that share an
        object count as one (see `delivery.push.fitting`).
        """
        group: list[RoutedBatch] = []
        blocked: list[int] = []
        object_count = group_bytes = 0
        last: Payload = None
        while self._turns and len(group) < GROUP_SHARED_MAX:
            key = self._turns[0]
            batch = self._waiting[key][0]
            more = batch.header.record_bytes
            if self.held_bytes and self.held_bytes + more > self._held_bytes_max:
                break
            if not self._may_hold(key, more):
                blocked.append(self._turns.popleft())
                continue
            is_other = not group or batch.payload is not last
            if group and (object_count + is_other > batches_max or group_bytes + more > bytes_max):
                break
            self._pop(key)
            self._held[key] = self._held.get(key, 0) + more
            self.held_bytes += more
            group.append(batch)
            object_count += is_other
            group_bytes += more
            last = batch.payload
        self._turns.extendleft(reversed(blocked))
        return group

    def settled(self, batch: RoutedBatch) -> None:
        """A taken batch is no longer the lane's."""
        key = self._key(batch)
        self.held_bytes -= batch.header.record_bytes
        left = self._held[key] - batch.header.record_bytes
        if left > 0:
            self._held[key] = left
        else:
            del self._held[key]

    def put_back(self, taken: Iterable[RoutedBatch]) -> None:
        """Taken batches, in the order they were taken, wait again in front of all others."""
        for batch in reversed(list(taken)):
            self.settled(batch)
            key = self._key(batch)
            waiting = self._waiting.get(key)
            if waiting is None:
                waiting = self._waiting[key] = deque()
                self._turns.appendleft(key)
            waiting.appendleft(batch)
            self._count += 1
            self.waiting_bytes += batch.header.record_bytes

    def clear(self) -> None:
        """Nothing waits any more, and nothing is held."""
        self._waiting.clear()
        self._turns.clear()
        self._held.clear()
        self._count = self.waiting_bytes = self.held_bytes = 0

    def _key(self, batch: RoutedBatch) -> int:
        return batch.header.workspace_id if self._by_workspace else 0

    def _may_hold(self, key: int, more_bytes: int) -> bool:
        held = self._held.get(key, 0)
        if not held or (len(self._held) == 1 and len(self._waiting) == 1):
            return True
        return held + more_bytes <= self._held_bytes_max // WORKSPACE_SHARE

    def _pop(self, key: int) -> None:
        waiting = self._waiting[key]
        self.waiting_bytes -= waiting.popleft().header.record_bytes
        self._turns.popleft()
        if waiting:
            self._turns.append(key)
        else:
            del self._waiting[key]
        self._count -= 1
