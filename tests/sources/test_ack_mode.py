"""The receiving side of ack mode: one batch per unit, answers in order, and no trust in claims."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.delivery import push
from cdp_ray_sinks.errors import BatchConflictError
from cdp_ray_sinks.sources import acked_stream
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config
from cdp_ray_sinks.testing import BatchKeeper
from cdp_ray_sinks.writers.ack_units import (
    AGAIN,
    BAD_VERSION,
    CONFLICT,
    MALFORMED,
    NOT_ALLOWED,
    SETTLED,
    UNIT_BYTES_MAX,
    UNKNOWN_KEY,
    UnitHead,
    decode_answer,
    encode_preamble,
    encode_unit_head,
)

SENDER = b"sender-of-a-test"
NOW_MS = int(time.time() * 1000)


class LateTicket:
    """Done when it is told to be."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] | None = None

    def done(self) -> bool:
        return self.outcomes is not None

    def result(self, timeout_s: float | None = None) -> Mapping[str, str]:
        assert self.outcomes is not None
        if "refused" in self.outcomes.values():
            raise BatchConflictError("other content")
        return self.outcomes


class LateTaker(BatchKeeper):
    """Settles when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets: list[LateTicket] = []
        self.lows: list[int] = []

    def submit_as(self, batch: Batch, batch_id: BatchId, low: int) -> Any:
        super().submit_as(batch, batch_id, low)
        self.lows.append(low)
        self.tickets.append(LateTicket())
        return self.tickets[-1]


class Running:
    """A source with ack mode in a thread."""

    def __init__(self, api_keys: Path, taker: Any, **options: Any) -> None:
        plain = {"listen": "127.0.0.1:0", "api_keys": api_keys, "forwarding": True, "ack": True}
        self.source = load_source_config("tcp", plain | options).build(SourceContext("far"))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.source.run, args=(taker, self.stop))
        self.thread.start()
        assert self.source.ready.wait(60)  # type: ignore[attr-defined]

    def connect(self) -> socket.socket:
        host, _, port = self.source.address.rpartition(":")  # type: ignore[attr-defined]
        return socket.create_connection((host, int(port)), timeout=10)

    def finish(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def receiver(api_keys: Path) -> Any:
    """Runs receivers and stops them."""
    made: list[Running] = []

    def run(taker: Any, **options: Any) -> Running:
        made.append(Running(api_keys, taker, **options))
        return made[-1]

    yield run
    for running in made:
        running.finish()


def unit(sequence: int, frames: list[bytes], low: int = 0, **claims: int) -> bytes:
    content = b"".join(frames)
    head = UnitHead(sequence, low, NOW_MS, len(content), len(frames))._replace(**claims)
    return encode_unit_head(head) + content


def answers(client: socket.socket, count: int) -> list[tuple[int, int]]:
    """So many answers; fewer if the connection ends before."""
    said = b""
    while len(said) < 12 * count:
        with contextlib.suppress(ConnectionError):
            more = client.recv(12 * count - len(said))
            if more:
                said += more
                continue
        break
    return [decode_answer(said[at : at + 12]) for at in range(0, len(said), 12)]


def test_each_unit_is_one_batch_under_its_id(receiver: Any, wire: Any) -> None:
    """Received when its sender says, from where its messages say; in whatever pieces it comes."""
    keeper = BatchKeeper()
    running = receiver(keeper, read_buffer_bytes=4096)
    frames = [wire.frame(wire.one, payloads=[b"p" * size]) for size in (1, 5000, 200_000)]
    stream = encode_preamble(SENDER, 7) + unit(3, frames) + unit(90, frames[:1], 4)
    stream += encode_preamble(SENDER, 8) + unit(3, frames[1:])
    with running.connect() as client:
        for place in range(0, len(stream), 1789):
            client.sendall(stream[place : place + 1789])
        found = []
        while not found or found[-1][1] < 3:
            found += answers(client, 1)
    assert found[0] == (SETTLED, 0)
    assert {code for code, _ in found} == {SETTLED}
    ids = [(b.header.epoch, b.header.sequence, b.header.message_count) for b in keeper.batches]
    assert ids == [(7, 3, 3), (7, 90, 1), (8, 3, 2)]
    assert len({batch.header.producer for batch in keeper.batches}) == 1
    assert {batch.header.received_at_ms for batch in keeper.batches} == {NOW_MS}
    blanked = [frame[4:].replace(wire.one, bytes(16)) for frame in frames]
    assert [bytes(message) for message in keeper.batches[0].messages()] == blanked


def test_the_same_unit_again_is_the_same_batch_with_the_same_checksum(
    receiver: Any, wire: Any
) -> None:
    """From another connection, much later; another workspace's key makes another id of it."""
    keeper, stream = BatchKeeper(), []
    for key in (wire.one, wire.one, wire.two):
        running = receiver(keeper)
        with running.connect() as client:
            client.sendall(encode_preamble(SENDER, 1) + unit(5, [wire.frame(key)]))
            while not stream or stream[-1] != (SETTLED, 1):
                stream += answers(client, 1)
        stream.clear()
    assert len(keeper.batches) == 2
    producers = {batch.header.producer for batch in keeper.batches}
    assert len(producers) == 2
    assert SENDER not in producers


def test_answers_wait_for_those_before(receiver: Any, wire: Any) -> None:
    """The count says that nothing before it is missing."""
    taker = LateTaker()
    running = receiver(taker)
    with running.connect() as client:
        units = [unit(number, [wire.frame(wire.one)], number) for number in range(3)]
        client.sendall(encode_preamble(SENDER, 1) + b"".join(units))
        assert answers(client, 1) == [(SETTLED, 0)]
        wire.wait_until(lambda: len(taker.tickets) == 3)
        taker.tickets[2].outcomes = taker.tickets[1].outcomes = {"archive": "durable"}
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        taker.tickets[0].outcomes = {"archive": "spooled"}
        assert answers(client, 1) == [(SETTLED, 3)]
    assert taker.lows == [0, 1, 2]


@pytest.mark.parametrize(("outcome", "code"), [("refused", CONFLICT), (push.LOST, AGAIN)])
def test_what_is_not_settled_is_never_acknowledged(
    receiver: Any, wire: Any, outcome: str, code: int
) -> None:
    """A lost unit has to come again, one with a known id and other content never can."""
    assert acked_stream.LOST == push.LOST
    taker = LateTaker()
    running = receiver(taker)
    with running.connect() as client:
        client.sendall(encode_preamble(SENDER, 1) + unit(1, [wire.frame(wire.one)]))
        wire.wait_until(lambda: len(taker.tickets) == 1)
        taker.tickets[0].outcomes = {"archive": outcome}
        assert answers(client, 3) == [(SETTLED, 0), (code, 0)]


def _damaged(wire: Any, kind: str) -> tuple[bytes, int]:
    one, two = wire.frame(wire.one), wire.frame(wire.two)
    whole = encode_preamble(SENDER, 1)
    cases = {
        "other version": (struct.pack(">4sI16sQ", b"CDPA", 2, SENDER, 1), BAD_VERSION),
        "unknown key": (whole + unit(1, [wire.frame(b"k" * 16)]), UNKNOWN_KEY),
        "two workspaces": (whole + unit(1, [one, two]), MALFORMED),
        "two schemas": (whole + unit(1, [one, wire.frame(wire.one, schema_type=2)]), MALFORMED),
        "a bad message": (whole + unit(1, [one, struct.pack(">I", 9) + b"malformed"]), MALFORMED),
        "fewer frames": (whole + unit(1, [one], frame_count=2), MALFORMED),
        "more frames": (whole + unit(1, [one, one], frame_count=1), MALFORMED),
        "no frames": (whole + unit(1, []), MALFORMED),
        "a torn frame": (whole + unit(1, [one, one[:30]]), MALFORMED),
        "too large": (whole + unit(1, [one], frame_bytes=UNIT_BYTES_MAX + 1), MALFORMED),
        "a low above": (whole + unit(1, [one], low=2), MALFORMED),
        "a sequence too high": (whole + unit(2**62, [one]), MALFORMED),
        "in two days": (whole + unit(1, [one], received_at_ms=NOW_MS + 172_800_000), MALFORMED),
    }
    return cases[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "other version", "unknown key", "two workspaces", "two schemas", "a bad message",
        "fewer frames", "more frames", "no frames", "a torn frame", "too large", "a low above",
        "a sequence too high", "in two days",
    ],
)  # fmt: skip
def test_a_forged_unit_ends_its_connection_with_a_reason(
    receiver: Any, wire: Any, kind: str
) -> None:
    """Nothing of it is kept; the next connection is served."""
    keeper = BatchKeeper()
    running = receiver(keeper)
    content, code = _damaged(wire, kind)
    with running.connect() as client:
        client.sendall(content)
        assert answers(client, 3)[-1] == (code, 0)
    assert keeper.batches == []
    with running.connect() as client:
        client.sendall(encode_preamble(SENDER, 1) + unit(1, [wire.frame(wire.one)]))
        wire.wait_until(lambda: len(keeper.batches) == 1)
    assert running.source.counters()["units_refused"] == 1


def test_only_peers_that_may_forward_may_use_it(receiver: Any, wire: Any) -> None:
    """They choose addresses and times of receipt."""
    running = receiver(BatchKeeper(), forwarding_peers=["10.0.0.0/8"])
    with running.connect() as client:
        client.sendall(encode_preamble(SENDER, 1))
        assert answers(client, 2) == [(NOT_ALLOWED, 0)]


def test_a_source_without_ack_mode_closes_at_the_preamble(receiver: Any, wire: Any) -> None:
    """As any collector of the plain protocol does, for which it is a length too large."""
    running = receiver(BatchKeeper(), ack=False)
    with running.connect() as client:
        client.sendall(encode_preamble(SENDER, 1))
        assert client.recv(10) == b""


def test_frames_without_a_preamble_are_plain(receiver: Any, wire: Any) -> None:
    """SDKs and forwarders use one port."""
    keeper = BatchKeeper()
    running = receiver(keeper)
    with running.connect() as client:
        client.sendall(wire.frame(wire.one)[:2])
        time.sleep(0.05)
        client.sendall(wire.frame(wire.one)[2:])
        wire.wait_until(lambda: len(keeper.batches) == 1)
    assert keeper.batches[0].header.producer == bytes(16)


def test_what_stands_still_is_closed_and_weighs_little(receiver: Any, wire: Any) -> None:
    """Half a head, half a unit of a large claim: memory grows with what came, not with claims."""
    running = receiver(BatchKeeper(), stalled_frame_timeout_s=1)
    preamble = encode_preamble(SENDER, 1)
    large = unit(1, [wire.frame(wire.one)], frame_bytes=UNIT_BYTES_MAX, frame_count=1000)
    with running.connect() as half, running.connect() as claim:
        half.sendall(preamble + large[:20])
        claim.sendall(preamble + large[:200])
        wire.wait_until(lambda: len(running.source._connections) == 2)
        held = [c.held_bytes for c in running.source._connections]
        assert max(held) <= 65536
        for client in (half, claim):
            assert answers(client, 5) == [(SETTLED, 0)]
    assert running.source.counters()["connections_silent"] == 2


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_never_stops_the_source(receiver: Any, wire: Any, seed: int) -> None:
    """Whatever the bytes, what is kept are whole units, and the next sender is served."""
    chance = random.Random(seed)
    keeper = BatchKeeper()
    running = receiver(keeper)
    valid = encode_preamble(SENDER, 1) + b"".join(
        unit(number, [wire.frame(wire.one, payloads=[os.urandom(50)]) for _ in range(3)])
        for number in range(20)
    )
    for _ in range(60):
        stream = bytearray(valid[: chance.randrange(1, len(valid))])
        for _ in range(chance.randrange(8)):
            stream[chance.randrange(len(stream))] = chance.randrange(256)
        with running.connect() as client, contextlib.suppress(OSError):
            client.sendall(stream)
            if chance.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
                while client.recv(1000):
                    pass
    before = len(keeper.batches)
    with running.connect() as client:
        client.sendall(encode_preamble(SENDER, 99) + unit(1, [wire.frame(wire.two)]))
        wire.wait_until(lambda: any(batch.header.epoch == 99 for batch in keeper.batches[before:]))
    wire.wait_until(lambda: running.source.counters()["connections_active"] == 0)
    assert running.source._connections.buffer_bytes == 0
    assert {batch.header.message_count for batch in keeper.batches} <= {1, 3}


def test_a_drain_answers_for_what_is_settled_meanwhile(receiver: Any, wire: Any) -> None:
    """So that little has to be sent again."""
    taker = LateTaker()
    running = receiver(taker)
    with running.connect() as client:
        client.sendall(encode_preamble(SENDER, 1) + unit(1, [wire.frame(wire.one)]))
        wire.wait_until(lambda: len(taker.tickets) == 1)
        running.stop.set()
        time.sleep(0.3)
        taker.tickets[0].outcomes = {"archive": "durable"}
        assert answers(client, 3) == [(SETTLED, 0), (SETTLED, 1)]
