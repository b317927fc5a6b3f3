"""The router: takes groups of references, sends each batch to its sinks, collects answers.

It sees headers and references, never payload bytes. Its state is soft: when it is lost its
producers send again what they had no answer for, and the lanes' ledgers know what they have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.delivery.push import DROPPED, DURABLE, SPOOLED, Group, Low, Outcomes, Payload
from cdp_ray_sinks.delivery.router_link import (
    COMPLETE,
    REQUIRED_SETTLED,
    RouteAnswer,
    SettledAnswer,
)
from cdp_ray_sinks.errors import SequenceGapError
from cdp_ray_sinks.routing.flights import RoutedBatch, Waiter
from cdp_ray_sinks.routing.flow import RouterFlow
from cdp_ray_sinks.routing.lane_sender import Budget, LaneLink, LaneSender
from cdp_ray_sinks.routing.placing import Placing, SinkPlaces
from cdp_ray_sinks.routing.spool_gate import SpoolGate, SpoolLink
from cdp_ray_sinks.routing.table import RoutingTable

TURN_WAIT_S_MAX = 10.0
ANSWER_WAIT_S = 0.25
PARTING_POLL_S = 0.01
SPOOL_IN_FLIGHT_BYTES_MAX = 64 * 1024 * 1024
SETTLED_ALONE_MAX = 8
SETTLED_LINGER_S = 20e-6
SETTLED_LINGER_S_MAX = 0.05
"""How long an answer waits for more to be settled: so long for each that was asked about."""
LANE_SHARE = 4
"""No lane of a sink with many may hold more than this part of the sink's budget."""


class SpoolPlace(SpoolLink, Protocol):
    """The way to a sink's spool, and whether that is empty."""

    async def lane(self) -> LaneLink:
        """The spool's lane. Raises LaneLostError."""
        ...


@dataclass(frozen=True, slots=True)
class SinkRoute:
    """What the router knows of a sink; `spool` is there for `on_full` "spool"."""

    name: str
    by_workspace: bool
    required: bool
    on_full: str
    in_flight_bytes_max: int
    places: SinkPlaces
    spool: SpoolPlace | None = None
    spool_after_s: float = 2.0


@dataclass(slots=True)
class _ProducerTurn:
    session: int
    following: int
    changed: asyncio.Event


class Router:
    """Fan-out by reference. All methods run on one event loop."""

    def __init__(
        self,
        router_id: str,
        table: RoutingTable,
        sinks: Mapping[str, SinkRoute],
        random: Callable[[], float],
        new_session: Callable[[], int],
        *,
        group_batches_max: int = 32,
        group_bytes_max: int = 256 * 1024 * 1024,
    ) -> None:
        self._router_id = router_id
        self._table = table
        self._sinks = sinks
        self._random = random
        self._new_session = new_session
        self._group_batches_max = group_batches_max
        self._group_bytes_max = group_bytes_max
        self._required = frozenset(name for name, sink in sinks.items() if sink.required)
        self._budgets = {name: Budget(s.in_flight_bytes_max) for name, s in sinks.items()}
        self.gates: dict[str, SpoolGate] = {}
        self._senders: dict[tuple[str, str], LaneSender] = {}
        self._placed: dict[tuple[str, int], LaneSender] = {}
        self._unplaced: dict[tuple[str, int], list[RoutedBatch]] = {}
        self._touched: set[LaneSender] = set()
        self._placings = {
            name: Placing(sink.places, partial(self._placed_at, sink), random)
            for name, sink in sinks.items()
        }
        self._batches: dict[BatchId, RoutedBatch] = {}
        self._turns: dict[bytes, _ProducerTurn] = {}
        self._lows: dict[tuple[bytes, int], int] = {}
        self._results: dict[Outcomes, Outcomes] = {}
        self.flow = RouterFlow(lambda: asyncio.get_running_loop().time())
        self.batches_routed = 0
        self.batches_dropped = 0

    def begin(self, producer: bytes, session: int) -> int:
        """Begin a producer's session at call 1; calls of its older sessions are refused.

        Returns the session in force: a newer one than asked for if there is one.
        """
        known = self._turns.get(producer)
        if known is None or session > known.session:
            if known is not None:
                known.changed.set()
            self._turns[producer] = _ProducerTurn(session, 1, asyncio.Event())
        return self._turns[producer].session

    async def route(self, producer: bytes, session: int, number: int, group: Group) -> RouteAnswer:
        """Queue a group's batches for their sinks; answers when required ones settled all.

        What a sink still owes after `ANSWER_WAIT_S` is answered as owed, so that one stuck
        batch does not keep the answers of others. Raises SequenceGapError if the session is
        over or a call before this one is missing.
        """
        turn = await self._take_turn(producer, session, number)
        for low_producer, epoch, low in group.lows:
            self._lows[(low_producer, epoch)] = low
        routed = [
            self._accept(header, group.payloads[place])
            for header, place in zip(group.headers, group.places, strict=True)
        ]
        self._send_touched()
        for gate in self.gates.values():
            gate.send()
        turn.following += 1
        turn.changed.set()
        turn.changed = asyncio.Event()
        waiter = Waiter(len(routed))
        for batch in routed:
            batch.wait(waiter, REQUIRED_SETTLED)
        await waiter.wait(ANSWER_WAIT_S)
        return self._answer(routed)

    async def settled(self, known: Sequence[tuple[BatchId, int]]) -> SettledAnswer:
        """Which of these batches are further than the caller knows; answers soon anyway.

        After the first it waits a moment, so that many are not asked for one by one. Raises
        SequenceGapError for a batch that this router does not know.
        """
        unknown = [batch_id for batch_id, _ in known if batch_id not in self._batches]
        if unknown:
            raise SequenceGapError(f"batch {unknown[0]} is not known to this router")
        polled = [self._batches[batch_id] for batch_id, _ in known]
        waiter = Waiter(1)
        for batch, (_, state) in zip(polled, known, strict=True):
            batch.wait(waiter, state + 1)
        await waiter.wait(ANSWER_WAIT_S)
        if len(polled) > SETTLED_ALONE_MAX:
            await asyncio.sleep(min(SETTLED_LINGER_S_MAX, len(polled) * SETTLED_LINGER_S))
        further = [p for p, (_, state) in enumerate(known) if polled[p].state > state]
        return SettledAnswer(further, *self._answer([polled[place] for place in further]))

    def forget_lane(self, sink_name: str, lane_name: str) -> bool:
        """Let go of a lane that is to be retired; False if anything is still under way to it."""
        sender = self._senders.get((sink_name, lane_name))
        if sender is None:
            return True
        if not sender.is_idle:
            return False
        self._forget(sink_name, lane_name, sender)
        return True

    def _forget(self, sink_name: str, lane_name: str, sender: LaneSender) -> None:
        del self._senders[(sink_name, lane_name)]
        self._placed = {key: s for key, s in self._placed.items() if s is not sender}
        self._touched.discard(sender)

    async def part_lane(self, sink_name: str, lane_name: str, wait_s: float) -> None:
        """Leave a lane that goes: wait for what it was sent, place the rest anew, in order."""
        if (sender := self._senders.get((sink_name, lane_name))) is None:
            return
        sender.pause()
        for _ in range(int(wait_s / PARTING_POLL_S)):
            if sender.queued[1]:
                await asyncio.sleep(PARTING_POLL_S)
        self._forget(sink_name, lane_name, sender)
        for batch in sender.part():
            self._offer(self._sinks[sink_name], batch)
        self._send_touched()

    def state(self) -> dict[str, Any]:
        """Queues and errors per sink, for `status`."""
        now_s = asyncio.get_running_loop().time()
        sinks: dict[str, Any] = {}
        for (sink, _), sender in self._senders.items():
            queued, pushed = sender.queued
            entry = sinks.setdefault(
                sink, {"queued": 0, "pushed": 0, "recoveries": 0, "last_error": None, "lanes": 0}
            )
            entry["lanes"] += 1
            entry["queued"] += queued
            entry["pushed"] += pushed
            entry["recoveries"] += sender.recoveries
            entry["last_error"] = sender.last_error or entry["last_error"]
        for name, budget in self._budgets.items():
            entry = sinks.setdefault(name, {})
            entry["in_flight_bytes"] = budget.in_flight_bytes
            entry["in_flight_bytes_max"] = budget.in_flight_bytes_max
            entry["queued_bytes"] = budget.queued_bytes
            oldest_s = self._oldest_s(name)
            entry["lag_s"] = 0.0 if oldest_s is None else max(0.0, now_s - oldest_s)
            entry["flow"] = self.flow.sink_report(name)
            if name in self.gates:
                entry["spool"] = self.gates[name].report()
        return {
            "batches_routed": self.batches_routed,
            "in_router": len(self._batches),
            "sinks": sinks,
            "workspaces": self.flow.workspace_reports(self._batches.values()),
        }

    async def _take_turn(self, producer: bytes, session: int, number: int) -> _ProducerTurn:
        """Wait for the calls before this one; Ray may start them out of order."""
        while True:
            turn = self._turns.get(producer)
            if turn is None or turn.session != session:
                raise SequenceGapError(f"session {session} of {producer.hex()[:8]} is over")
            if number == turn.following:
                return turn
            if number < turn.following:
                raise SequenceGapError(f"call {number} of {producer.hex()[:8]} came twice")
            try:
                await asyncio.wait_for(turn.changed.wait(), TURN_WAIT_S_MAX)
            except TimeoutError:
                raise SequenceGapError(
                    f"call {number} of {producer.hex()[:8]} came, {turn.following} never did"
                ) from None

    def _accept(self, header: BatchHeader, payload: Payload) -> RoutedBatch:
        """Queue one batch for its sinks, unless it is here already."""
        batch_id = header.batch_id
        known = self._batches.get(batch_id)
        if known is not None:
            return known
        names = self._table.route(header)
        now_s = asyncio.get_running_loop().time()
        batch = RoutedBatch(header, payload, names, self._required, now_s, self.flow.settled)
        if names:
            self._batches[batch_id] = batch
        self.batches_routed += 1
        self.flow.accepted(header)
        for name in names:
            sink, budget = self._sinks[name], self._budgets[name]
            if sink.spool is not None:
                has_room = budget.has_room(header.record_bytes)
                self._gate(sink, sink.spool).offer(batch, has_room=has_room)
            elif sink.on_full == "drop" and not budget.has_room(header.record_bytes):
                self.batches_dropped += 1
                batch.settle(name, DROPPED)
            else:
                self._offer(sink, batch)
        return batch

    def _answer(self, routed: list[RoutedBatch]) -> RouteAnswer:
        states = [batch.state for batch in routed]
        for batch, state in zip(routed, states, strict=True):
            if state == COMPLETE:
                self._batches.pop(batch.header.batch_id, None)
        return RouteAnswer([self._interned(batch.result()) for batch in routed], states)

    def _interned(self, outcomes: Outcomes) -> Outcomes:
        """One object per distinct result, which pickle then writes once per answer."""
        if len(self._results) > 1024:
            self._results.clear()
        return self._results.setdefault(outcomes, outcomes)

    def _gate(self, sink: SinkRoute, spool: SpoolPlace) -> SpoolGate:
        gate = self.gates.get(sink.name)
        if gate is None:
            budget = Budget(SPOOL_IN_FLIGHT_BYTES_MAX)

            async def find() -> LaneLink:
                return await spool.lane()

            name = f"{self._router_id}>{sink.name}-spool"
            sender = self._sender(sink, name, find, budget, 1, SPOOLED)
            gate = self.gates[sink.name] = SpoolGate(
                sender,
                budget,
                spool,
                spool_after_s=sink.spool_after_s,
                withdraw=lambda: self._withdraw(sink.name),
                oldest_s=lambda: self._oldest_s(sink.name),
                go_direct=lambda batch: self._offer(sink, batch),
                send_direct=self._send_touched,
            )
        return gate

    def _send_touched(self) -> None:
        """Let the lanes go on that have got batches."""
        for sender in self._touched:
            sender.send()
        self._touched.clear()

    def _withdraw(self, sink_name: str) -> list[RoutedBatch]:
        """Take back what the lanes of a sink have not settled, and what waits for a lane."""
        taken: list[RoutedBatch] = []
        for (name, _), sender in self._senders.items():
            if name == sink_name:
                taken += sender.withdraw()
        for (name, _), waiting in self._unplaced.items():
            if name == sink_name:
                taken += waiting
                queued_bytes = sum(batch.header.record_bytes for batch in waiting)
                self._budgets[sink_name].queued_bytes -= queued_bytes
                waiting.clear()
        return taken

    def _oldest_s(self, sink_name: str) -> float | None:
        """When the longest unsettled batch of a sink came."""
        oldest = [s.oldest_s for (name, _), s in self._senders.items() if name == sink_name]
        oldest += [
            w[0].came_s for (name, _), w in self._unplaced.items() if name == sink_name and w
        ]
        return min((came_s for came_s in oldest if came_s is not None), default=None)

    def _offer(self, sink: SinkRoute, batch: RoutedBatch) -> None:
        """Queue a batch at its lane; the first of a workspace waits until that has a lane."""
        self._budgets[sink.name].queued_bytes += batch.header.record_bytes
        workspace_id = batch.header.workspace_id if sink.by_workspace else 0
        key = (sink.name, workspace_id)
        sender = self._placed.get(key)
        if sender is not None:
            sender.offer(batch)
            self._touched.add(sender)
            return
        waiting = self._unplaced.get(key)
        if waiting is not None:
            waiting.append(batch)
            return
        self._unplaced[key] = [batch]
        self._placings[sink.name].want(workspace_id)

    def _placed_at(self, sink: SinkRoute, lane_names: Mapping[int, str]) -> None:
        """Note the lanes of workspaces; what waited for them is queued there."""
        senders: set[LaneSender] = set()
        for workspace_id, lane_name in lane_names.items():
            sender = self._senders.get((sink.name, lane_name))
            if sender is None:
                sender = self._new_sender(sink, lane_name, workspace_id)
                self._senders[(sink.name, lane_name)] = sender
            key = (sink.name, workspace_id)
            self._placed[key] = sender
            for batch in self._unplaced.pop(key):
                sender.offer(batch)
            senders.add(sender)
        for sender in senders:
            sender.send()

    def _new_sender(self, sink: SinkRoute, lane_name: str, workspace_id: int) -> LaneSender:
        async def find() -> LaneLink:
            found = await sink.places.place([workspace_id])
            return await sink.places.link(found[workspace_id])

        share = LANE_SHARE if sink.by_workspace else 1
        name = f"{self._router_id}>{lane_name}"
        return self._sender(sink, name, find, self._budgets[sink.name], share, DURABLE)

    def _sender(
        self,
        sink: SinkRoute,
        name: str,
        find: Callable[[], Awaitable[LaneLink]],
        budget: Budget,
        share: int,
        durable_as: str,
    ) -> LaneSender:
        return LaneSender(
            sink.name,
            name,
            find,
            budget,
            self._lows_of,
            self._random,
            self._new_session,
            lane_bytes_max=budget.in_flight_bytes_max // share,
            has_workspaces=share > 1,
            group_batches_max=self._group_batches_max,
            group_bytes_max=self._group_bytes_max,
            durable_as=durable_as,
        )

    def _lows_of(self, producers: set[tuple[bytes, int]]) -> list[Low]:
        return [(p, e, self._lows.get((p, e), 0)) for p, e in producers]
