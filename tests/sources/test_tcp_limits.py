"""What a client of the TCP source can do at worst: each limit, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.connections import network_of
from cdp_ray_sinks.sources.registry import load_source_config

ZERO_LENGTH = struct.pack(">I", 0)


def source_of(api_keys: Path, listen: str = "127.0.0.1:0", **options: Any) -> Any:
    """A TCP source on a free port."""
    options = {"listen": listen, "api_keys": str(api_keys), **options}
    return load_source_config("tcp", options).build(SourceContext("tcp_main"))


def is_closed(client: socket.socket, timeout_s: float = 10) -> bool:
    """Whether the other side ended the connection within the time."""
    client.settimeout(timeout_s)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_flood_of_empty_frames_is_cut_off(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Millions are sent, a few thousand looked at; a neighbour is served meanwhile."""
    running = run_source(source_of(api_keys, bad_frame_count_max=1000))
    with running.connect() as flood, running.connect() as neighbour:
        with contextlib.suppress(OSError):
            for _ in range(64):
                flood.sendall(ZERO_LENGTH * 65_536)
        neighbour.sendall(wire.frame(wire.one))
        assert is_closed(flood)
        wire.wait_until(lambda: taker.events == 1)
    running.finish()
    assert running.counter("connections_cut") == 1
    assert 1000 < running.counter("messages_malformed") <= 1000 + 4096
    assert running.counter("bytes") <= 2 * 1024 * 1024


def test_bad_frames_count_against_good_ones(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """As many good as bad may go on for ever; what was good before the cut is kept."""
    running = run_source(source_of(api_keys, bad_frame_count_max=3))
    good, unknown = wire.frame(wire.one), wire.frame(bytes(range(16)))
    with running.connect() as client:
        for turn in range(1, 51):
            client.sendall(unknown + ZERO_LENGTH + good + good)
            wire.wait_until(lambda turn=turn: running.counter("messages") == 2 * turn)
        client.sendall(unknown * 3)
        wire.wait_until(lambda: running.counter("auth_failures") == 53)
        client.sendall(good)
        wire.wait_until(lambda: running.counter("messages") == 101)
        client.sendall(good + unknown * 5 + good)
        assert is_closed(client)
    running.finish()
    assert running.counter("connections_cut") == 1
    assert len(taker.messages()) >= 102


def test_a_bad_frame_may_be_one_too_many_at_once(api_keys: Path, run_source: Any) -> None:
    """With a limit of 0 the first bad frame ends the connection, also a large one."""
    running = run_source(source_of(api_keys, bad_frame_count_max=0, read_buffer_bytes=4096))
    with running.connect() as client:
        client.sendall(struct.pack(">I", 500_000) + bytes(500_000))
        assert is_closed(client)
    running.finish()
    assert running.counter("messages_malformed") == running.counter("connections_cut") == 1


def test_one_network_can_not_take_every_connection(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """The third of an address is refused, that of another is served, and places come free."""
    running = run_source(source_of(api_keys, listen="*:0", connection_count_per_network_max=2))
    port = running.counter("port")

    def connect(host: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), 10, source_address=(host, 0))

    with connect("127.0.0.1") as one, connect("127.0.0.1") as two:
        wire.wait_until(lambda: running.counter("connections_active") == 2)
        with connect("127.0.0.1") as third:
            assert is_closed(third)
        with connect("127.0.0.2") as other:
            other.sendall(wire.frame(wire.one))
            wire.wait_until(lambda: taker.events == 1)
        one.close()
        wire.wait_until(lambda: running.counter("connections_active") == 1)
        with connect("127.0.0.1") as again:
            again.sendall(wire.frame(wire.one))
            two.sendall(wire.frame(wire.one))
            wire.wait_until(lambda: taker.events == 3)
    running.finish()
    assert running.counter("connections_refused") == 1


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_an_ipv6_client_counts_by_its_network(one: str, other: str, is_same: bool) -> None:
    """Who has one IPv6 address has 2^64 of them."""
    networks = [network_of(socket.inet_pton(socket.AF_INET6, host)) for host in (one, other)]
    assert (networks[0] == networks[1]) == is_same


def test_the_silent_are_closed_and_the_busy_are_not(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Silent outside a frame: after the idle timeout; inside one: after the stalled one."""
    running = run_source(source_of(api_keys, idle_timeout_s=4, stalled_frame_timeout_s=1))
    frame = wire.frame(wire.one)
    with (
        running.connect() as stalled,
        running.connect() as few,
        running.connect() as idle,
        running.connect() as busy,
    ):
        stalled.sendall(frame[:20])
        few.sendall(frame[:2])
        began = time.monotonic()
        assert is_closed(stalled)
        assert is_closed(few)
        assert time.monotonic() - began >= 1
        assert running.counter("connections_active") == 2
        while running.counter("connections_silent") < 3:
            busy.sendall(frame)
            time.sleep(0.1)
        assert time.monotonic() - began >= 4
        assert is_closed(idle)
        assert running.counter("connections_active") == 1
    running.finish()
    assert running.counter("frames_torn") == 2


def test_who_waits_for_a_blocked_taker_is_not_silent(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """What lies unread while the window is full is read later, not cut off."""
    running = run_source(source_of(api_keys, idle_timeout_s=1, stalled_frame_timeout_s=1))
    frame = wire.frame(wire.one)
    with running.connect() as client, running.connect() as other:
        taker.open_gate.clear()
        other.sendall(frame)
        assert taker.waiting.wait(60)
        client.sendall(frame)
        time.sleep(2.5)
        taker.open_gate.set()
        wire.wait_until(lambda: taker.events == 2)
    running.finish()


def test_a_removed_key_is_refused_from_its_next_frame_on(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """On a connection that is open, without a signal; the file broken, the rest still works."""
    running = run_source(source_of(api_keys, api_keys_check_ms=10))
    with running.connect() as client:
        client.sendall(wire.frame(wire.one) + wire.frame(wire.two))
        wire.wait_until(lambda: running.counter("messages") == 2)
        api_keys.write_text(f"{wire.two.hex()}:2\n")
        wire.wait_until(lambda: running.counter("api_key_reloads") == 1)
        client.sendall(wire.frame(wire.one) + wire.frame(wire.two))
        wire.wait_until(lambda: running.counter("messages") == 3)
        assert running.counter("auth_failures") == 1
        api_keys.write_text("nonsense\n")
        wire.wait_until(lambda: running.counter("api_key_reload_errors") == 1)
        assert "line 1" in running.source.problem()
        client.sendall(wire.frame(wire.two))
        wire.wait_until(lambda: running.counter("messages") == 4)
    running.finish()
    assert len(taker.messages(1)) == 1
