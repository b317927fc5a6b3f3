"""The TCP source over real sockets."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config

HOUR_MS = 3_600_000
LOOPBACK = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"


def source_of(api_keys: Path, clock: Any = None, **options: Any) -> Any:
    """A TCP source on a free port of the loopback."""
    config = load_source_config(
        "tcp", {"listen": "127.0.0.1:0", "api_keys": str(api_keys), **options}
    )
    return config.build(SourceContext("tcp_main", clock or SystemClock()))


def without_key(message: bytes, key: bytes) -> bytes:
    assert message.count(key) == 1
    return message.replace(key, bytes(16))


def test_a_message_arrives_whole_with_its_key_zeroed(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """The record is time, peer, size and the message with zeros in place of its key."""
    running = run_source(source_of(api_keys))
    message = wire.message(wire.one, [b'{"a":1}', b'{"b":2}'])
    before_ms = time.time_ns() // 1_000_000
    with running.connect() as client:
        client.sendall(struct.pack(">I", len(message)) + message)
        wire.wait_until(lambda: taker.batches)
    running.finish()
    [batch] = taker.batches
    header = batch.header
    assert (header.workspace_id, header.schema_type, header.source_id) == (1, 1, "tcp_main")
    assert (header.message_count, header.event_count, header.event_types) == (1, 2, 2)
    assert header.time_min_ms == header.time_max_ms == 1_700_000_000_000
    assert header.record_bytes == len(batch.records) == 28 + len(message)
    assert header.checksum == xxhash.xxh3_64_intdigest(batch.records)
    received_ms, size = struct.unpack(">Q16xI", batch.records[:28].tobytes())
    assert before_ms <= received_ms == header.received_at_ms <= time.time_ns() // 1_000_000
    assert (size, wire.ip_at(batch, 0)) == (len(message), LOOPBACK)
    assert taker.messages() == [without_key(message, wire.one)]
    assert batch.offsets.tolist() == [0, len(batch.records)]


def test_captured_frames_of_both_dialects_are_taken(
    tmp_path: Path, run_source: Any, taker: Any, captures: Any, wire: Any
) -> None:
    """Every captured frame lands, by schema, and no api key is in any batch."""
    path = tmp_path / "keys"
    keys = [key for _, key in captures.values()]
    path.write_text("".join(f"{key.hex()}:{n}\n" for n, key in enumerate(keys, start=1)))
    running = run_source(source_of(path))
    for frames, _ in captures.values():
        with running.connect() as client:
            client.sendall(frames)
    wire.wait_until(lambda: running.counter("messages") == 6)
    running.finish()
    assert taker.events == 10
    assert running.counter("errors") == running.counter("messages_undecodable") == 0
    assert {b.header.schema_type for b in taker.batches} == {1, 2, 3}
    for batch in taker.batches:
        assert all(key not in batch.records.tobytes() for key in keys)


def test_a_frame_may_be_split_at_every_byte(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Wherever TCP cuts the stream, the same messages arrive in order."""
    running = run_source(source_of(api_keys, read_buffer_bytes=4096))
    frames = b"".join(wire.frame(wire.one, [b'{"n":%d}' % n]) for n in range(2))
    for cut in range(len(frames) + 1):
        with running.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(frames[:cut])
            before = running.counter("bytes")
            wire.wait_until(lambda before=before, cut=cut: cut == 0 or running.counter("bytes") > 0)
            time.sleep(0.001 if before else 0)
            client.sendall(frames[cut:])
    wire.wait_until(lambda: running.counter("messages") == 2 * (len(frames) + 1))
    running.finish()
    assert running.counter("errors") == 0
    plain = {n: without_key(wire.message(wire.one, [b'{"n":%d}' % n]), wire.one) for n in (0, 1)}
    assert set(taker.messages()) == set(plain.values())


def test_two_tenants_on_one_connection_stay_apart(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Interleaved messages go to their own workspace, in their order."""
    running = run_source(source_of(api_keys))
    keys = (wire.one, wire.two)
    frames = [wire.frame(keys[n % 2], [b'{"n":%d}' % n]) for n in range(300)]
    with running.connect() as client:
        client.sendall(b"".join(frames))
        wire.wait_until(lambda: running.counter("messages") == 300)
    running.finish()
    for workspace in (1, 2):
        expected = [without_key(f[4:], keys[workspace - 1]) for f in frames[workspace - 1 :: 2]]
        assert taker.messages(workspace) == expected


def test_bad_frames_are_counted_and_their_neighbours_taken(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Zero-length, malformed, wrong-length keys and unknown keys cost only themselves."""
    running = run_source(source_of(api_keys))
    good = wire.frame(wire.one)
    bad = [
        struct.pack(">I", 0),
        struct.pack(">I", 100) + b"B" * 100,
        wire.frame(b"short key"),
        wire.frame(wire.one + b"\0"),
    ]
    unknown = wire.frame(bytes(range(16)))
    with running.connect() as client:
        client.sendall(b"".join(good + frame for frame in [*bad, unknown]) + good)
        wire.wait_until(lambda: running.counter("messages") == 6)
        client.sendall(good)
        wire.wait_until(lambda: running.counter("messages") == 7)
    running.finish()
    assert running.counter("messages_malformed") == 4
    assert running.counter("auth_failures") == 1
    assert running.counter("errors") == 5
    assert taker.messages() == [without_key(good[4:], wire.one)] * 7


def test_undecodable_and_unknown_data_is_kept_as_received(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """A valid envelope is enough: what is in it may be read by a later version."""
    running = run_source(source_of(api_keys))
    frames = [
        wire.frame(wire.one, data=b"not an EventData"),
        wire.frame(wire.one, data=b"who knows", schema_type=77),
        wire.frame(wire.one, data=b""),
    ]
    with running.connect() as client:
        client.sendall(b"".join(frames))
        wire.wait_until(lambda: running.counter("messages") == 3)
    running.finish()
    assert sorted(taker.messages()) == sorted(without_key(f[4:], wire.one) for f in frames)
    assert running.counter("messages_undecodable") == 2
    assert taker.events == 0
    assert {b.header.schema_type for b in taker.batches} == {1, 77}


def test_an_oversize_length_closes_after_everything_before_it(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """16 MiB + 1 can't be framed: the connection goes, its earlier messages stay."""
    running = run_source(source_of(api_keys))
    with running.connect() as client, running.connect() as neighbour:
        client.sendall(wire.frame(wire.one) * 3 + struct.pack(">I", 16 * 1024 * 1024 + 1))
        assert client.recv(1) == b""
        neighbour.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: running.counter("messages") == 4)
    running.finish()
    assert running.counter("frames_oversize") == 1
    assert taker.events == 4


def test_the_largest_frame_is_taken(api_keys: Path, run_source: Any, wire: Any, taker: Any) -> None:
    """A frame of exactly 16 MiB spans many reads and has a batch to itself."""
    running = run_source(source_of(api_keys, read_buffer_bytes=64 * 1024))
    overhead = len(wire.message(wire.one, data=b"x" * 1024)) - 1024
    message = wire.message(wire.one, data=b"x" * (16 * 1024 * 1024 - overhead))
    assert len(message) == 16 * 1024 * 1024
    small = wire.frame(wire.one)
    with running.connect() as client:
        client.sendall(small + struct.pack(">I", len(message)) + message + small)
        wire.wait_until(lambda: running.counter("messages") == 3)
    running.finish()
    assert [len(m) for m in taker.messages()] == [len(small) - 4, len(message), len(small) - 4]
    assert taker.messages()[1] == without_key(message, wire.one)


def test_a_frame_cut_off_by_the_end_is_counted(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Half a frame at the end of the stream is no message, and is not silent."""
    running = run_source(source_of(api_keys))
    for cut in (2, 40):
        with running.connect() as client:
            client.sendall(wire.frame(wire.one) + wire.frame(wire.one)[:cut])
    wire.wait_until(lambda: running.counter("frames_torn") == 2)
    running.finish()
    assert running.counter("messages") == taker.events == 2


def test_a_lone_frame_does_not_wait_for_traffic(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """One event on an otherwise idle connection is handed over within 100 ms."""
    running = run_source(source_of(api_keys))
    with running.connect() as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.batches)
        waits_ms = []
        for count in range(2, 7):
            time.sleep(0.03)
            sent_at = time.monotonic()
            client.sendall(wire.frame(wire.one))
            wire.wait_until(lambda count=count: taker.events == count)
            waits_ms.append((taker.taken_at[-1] - sent_at) * 1000)
    running.finish()
    assert sorted(waits_ms)[2] < 100


def test_many_connections_at_once(api_keys: Path, run_source: Any, wire: Any, taker: Any) -> None:
    """200 clients, 50 frames each, all of them arrive."""
    running = run_source(source_of(api_keys))
    clients = [running.connect() for _ in range(200)]
    for step in range(5):
        for client in clients:
            client.sendall(wire.frame(wire.two, [b'{"n":%d}' % step]) * 10)
    wire.wait_until(lambda: running.counter("messages") == 10_000)
    assert running.counter("connections_active") == 200
    for client in clients:
        client.close()
    wire.wait_until(lambda: running.counter("connections_active") == 0)
    running.finish()
    assert taker.events == 10_000


def test_more_connections_than_allowed_are_refused(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """The one too many is closed at once and counted; the others are served."""
    running = run_source(source_of(api_keys, connection_count_max=2))
    with running.connect() as one, running.connect() as two:
        one.sendall(wire.frame(wire.one))
        two.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: running.counter("messages") == 2)
        with running.connect() as three:
            assert three.recv(1) == b""
        assert running.counter("connections_refused") == 1
        one.close()
        wire.wait_until(lambda: running.counter("connections_active") == 1)
        with running.connect() as four:
            four.sendall(wire.frame(wire.one))
            wire.wait_until(lambda: running.counter("messages") == 3)
    running.finish()


def test_a_slow_taker_holds_the_client_back(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """While the window is full nothing is read, the client blocks, nothing is lost."""
    taker.open_gate.clear()
    running = run_source(source_of(api_keys, batch_bytes_max=64 * 1024))
    frame = wire.frame(wire.one, [b"p" * 1000] * 50)
    count = 64 * 1024 * 1024 // len(frame)
    sent = []

    def send() -> None:
        with running.connect() as client:
            for number in range(count):
                client.sendall(frame)
                sent.append(number)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert taker.waiting.wait(60)
    before = -1
    while before != len(sent):
        before = len(sent)
        time.sleep(0.3)
    assert before < count
    assert running.counter("bytes") <= 2 * 1024 * 1024
    taker.open_gate.set()
    sender.join(30)
    wire.wait_until(lambda: running.counter("messages") == count)
    running.finish()
    assert taker.events == 50 * count


def test_stop_takes_what_has_arrived(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """What the kernel holds when stop is set is handed over before run returns."""
    taker.open_gate.clear()
    running = run_source(source_of(api_keys))
    with running.connect() as client, running.connect() as other:
        client.sendall(wire.frame(wire.one))
        assert taker.waiting.wait(60)
        client.sendall(wire.frame(wire.one) * 100)
        other.sendall(wire.frame(wire.two) * 100)
        with running.connect() as late:
            late.sendall(wire.frame(wire.two) * 10)
        running.stop.set()
        taker.open_gate.set()
        running.join()
        assert client.recv(1) == b""
    assert taker.events == 211
    assert running.counter("connections_active") == 0


class SettableClock(SystemClock):
    """Real durations, a wall time that the test sets."""

    def __init__(self, now_ms: int) -> None:
        self.wall_ms = now_ms

    def now_ms(self) -> int:
        return self.wall_ms


def test_a_batch_never_crosses_an_hour(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Messages received either side of the hour are in different batches, both ways."""
    clock = SettableClock(10 * HOUR_MS - 1)
    running = run_source(source_of(api_keys, clock, batch_age_ms=5000))
    with running.connect() as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: running.counter("messages") == 1)
        for count, wall_ms in enumerate((10 * HOUR_MS, 10 * HOUR_MS + 5, 10 * HOUR_MS - 3), 2):
            clock.wall_ms = wall_ms
            client.sendall(wire.frame(wire.one))
            wire.wait_until(lambda count=count: running.counter("messages") == count)
    running.finish()
    hours = []
    for batch in taker.batches:
        times = [
            int.from_bytes(batch.records[int(o) : int(o) + 8].tobytes()) for o in batch.offsets[:-1]
        ]
        assert {t // HOUR_MS for t in times} == {batch.header.received_at_ms // HOUR_MS}
        hours.append(batch.header.received_at_ms // HOUR_MS)
    assert hours[-3:] == [9, 10, 9] or hours == [9, 10, 9]
    assert taker.events == 4


@pytest.mark.parametrize("forwarding", [False, True])
def test_the_source_ip_of_a_message_counts_only_when_forwarding(
    api_keys: Path, run_source: Any, wire: Any, taker: Any, forwarding: bool
) -> None:
    """Trusted, each record has its message's own address; else, or if bad, the peer's."""
    running = run_source(source_of(api_keys, forwarding=forwarding))
    address = bytes(10) + b"\xff\xff\xc0\xa8\x01\x64"
    with running.connect() as client:
        client.sendall(
            wire.frame(wire.one, source_ip=address)
            + wire.frame(wire.one, source_ip=b"four")
            + wire.frame(wire.one)
        )
        wire.wait_until(lambda: running.counter("messages") == 3)
    running.finish()
    rows = [(b, r) for b in taker.batches for r in range(b.header.message_count)]
    found = [wire.ip_at(batch, row) for batch, row in rows]
    assert found == [address if forwarding else LOOPBACK, LOOPBACK, LOOPBACK]


def test_it_listens_on_ipv6_and_on_everything(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """The wildcard takes IPv4 clients, with their address in mapped form."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    running = run_source(source_of(api_keys, listen="*:0"))
    port = running.counter("port")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 1)
    with socket.create_connection(("::1", port)) as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 2)
    running.finish()
    assert [wire.ip_at(b, 0) for b in taker.batches] == [LOOPBACK, bytes(15) + b"\1"]


def test_unfinished_frames_together_are_bounded(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Claims cost nothing; when bytes that did arrive pass the bound the idlest go."""
    running = run_source(source_of(api_keys, connection_buffer_bytes_total_max=1024 * 1024))
    clients = [running.connect() for _ in range(8)]
    for client in clients:
        client.sendall(struct.pack(">I", 16 * 1024 * 1024) + bytes(300_000))
        before = running.counter("bytes")
        wire.wait_until(lambda before=before: running.counter("bytes") >= before)
    wire.wait_until(lambda: running.counter("connections_evicted") >= 4)
    with running.connect() as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 1)
    running.finish()
    for client in clients:
        client.close()


def test_a_connection_evicted_while_it_has_something_to_say_is_gone(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """All clients speak at once, so that one turn evicts those that it was yet to read."""
    running = run_source(source_of(api_keys, connection_buffer_bytes_total_max=1024 * 1024))
    for _ in range(10):
        clients = [running.connect() for _ in range(8)]
        for client in clients:
            client.setblocking(False)
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(struct.pack(">I", 16 * 1024 * 1024) + bytes(900_000))
        for client in clients:
            client.close()
    with running.connect() as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 1)
    assert running.counter("connections_evicted") >= 1
    running.finish()


def test_running_out_of_descriptors_is_survived(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Accepting pauses, those connected are served, and the next one is taken later."""
    running = run_source(source_of(api_keys))
    port = running.counter("port")
    served, late = running.connect(), socket.socket()
    wire.wait_until(lambda: running.counter("connections_active") == 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with served, late, contextlib.ExitStack() as taken:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 20, hard))
            with contextlib.suppress(OSError):
                while True:
                    taken.enter_context(Path(os.devnull).open())
            late.connect(("127.0.0.1", port))
            wire.wait_until(lambda: running.counter("accept_errors") >= 1)
            served.sendall(wire.frame(wire.one))
            wire.wait_until(lambda: taker.events == 1)
            assert running.counter("accept_errors") < 5
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        late.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 2)
    running.finish()


def test_an_address_in_use_is_a_config_error(api_keys: Path, taker: Any) -> None:
    """The error names the address and why it can't be had."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        source = source_of(api_keys, listen=listen)
        with pytest.raises(ConfigError, match=rf"can't listen on {listen}: .*in use"):
            source.run(taker, threading.Event())


@pytest.mark.parametrize("listen", ["", "host", "1.2.3.4:99999", "::1:80", "[::1:80"])
def test_a_bad_address_is_refused_before_anything_runs(listen: str) -> None:
    """Validation names the key, the value and the form that is expected."""
    with pytest.raises(ConfigError, match=r"listen.*expected host:port"):
        load_source_config("tcp", {"listen": listen, "api_keys": "keys"})


def test_keys_can_be_reloaded_while_it_runs(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """A new key works after reload; a broken file leaves the old keys in force."""
    source = source_of(api_keys)
    running = run_source(source)
    key = bytes(range(1, 17))
    with running.connect() as client:
        client.sendall(wire.frame(key))
        wire.wait_until(lambda: running.counter("auth_failures") == 1)
        api_keys.write_text(f"{key.hex()}:3\n")
        source.reload_api_keys()
        client.sendall(wire.frame(key) + wire.frame(wire.one))
        wire.wait_until(lambda: running.counter("auth_failures") == 2)
        api_keys.write_text("nonsense\n")
        with pytest.raises(ConfigError, match="line 1"):
            source.reload_api_keys()
        client.sendall(wire.frame(key))
        wire.wait_until(lambda: running.counter("messages") == 2)
    running.finish()
    assert [b.header.workspace_id for b in taker.batches] == [3] * len(taker.batches)


def test_hostile_streams_never_hurt_a_neighbour(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Bent frames and noise on many connections; a good client's events all land."""
    random = np.random.default_rng(5)
    running = run_source(source_of(api_keys))
    good = wire.frame(wire.two, [b'{"n":1}'])
    with running.connect() as neighbour:
        for turn in range(150):
            stream = bytearray(wire.frame(wire.one, [b"p" * 50] * 3) * 20)
            for _ in range(int(random.integers(1, 12))):
                stream[int(random.integers(len(stream)))] = int(random.integers(256))
            if turn % 5 == 0:
                stream = bytearray(random.bytes(2000))
            with running.connect() as client, contextlib.suppress(ConnectionError):
                client.sendall(stream)
            neighbour.sendall(good)
        wire.wait_until(lambda: len(taker.messages(2)) == 150)
        wire.wait_until(lambda: running.counter("connections_active") == 1)
    running.finish()
    assert taker.messages(2) == [without_key(good[4:], wire.two)] * 150
    assert running.counter("errors") > 50
