"""What clients of the HTTP source can do at worst: slow, large, cut, senseless, too many."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch import json_lines
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.sources.address import TrustedPeers, ip_bytes
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.http_requests import client_ip
from cdp_ray_sinks.sources.registry import load_source_config

TLS = Path(__file__).parents[1] / "golden" / "tls"
LINE = b'{"type":"track","event":"Seen","timestamp":1700000000000}'


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """A client must not wait for kernels that are being compiled."""
    json_lines.warm()


def source_of(api_keys: Path, **options: Any) -> Any:
    """An HTTP source on a free port of the loopback."""
    config = load_source_config(
        "http", {"listen": "127.0.0.1:0", "api_keys": str(api_keys), **options}
    )
    return config.build(SourceContext("http_main", SystemClock()))


def request_of(key: bytes, body: bytes = LINE, extra: bytes = b"") -> bytes:
    """A whole POST of lines."""
    return (
        b"POST /v1/events HTTP/1.1\r\nHost: here\r\nX-API-Key: " + key.hex().encode() + b"\r\n"
        + extra + b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )  # fmt: skip


def answer_of(peer: socket.socket) -> bytes:
    """All that comes until the other side closes, or the first answer."""
    peer.settimeout(20)
    found = b""
    with contextlib.suppress(ConnectionError):
        while b"\r\n\r\n" not in found:
            part = peer.recv(65536)
            if not part:
                break
            found += part
    return found


def is_served(running: Any, wire: Any) -> bool:
    """Whether an honest client gets its 202."""
    with running.connect() as peer:
        peer.sendall(request_of(wire.one))
        return answer_of(peer).startswith(b"HTTP/1.1 202")


def test_a_slow_head_is_answered_and_closed(api_keys: Path, run_source: Any, wire: Any) -> None:
    """However many hold connections with half a head, others are served meanwhile."""
    running = run_source(source_of(api_keys, head_timeout_s=1))
    peers = [running.connect() for _ in range(50)]
    for peer in peers:
        peer.sendall(b"POST /v1/events HTTP/1.1\r\nHost: h\r\n")
    assert is_served(running, wire)
    for peer in peers:
        assert answer_of(peer).startswith(b"HTTP/1.1 408")
        peer.close()
    wire.wait_until(lambda: running.counter("connections_active") == 0)
    assert running.counter("connections_slow") == 50


def test_a_slow_body_is_answered_and_closed(api_keys: Path, run_source: Any, wire: Any) -> None:
    """A byte now and then does not help: the whole body has its time."""
    running = run_source(source_of(api_keys, body_timeout_s=1))
    with running.connect() as peer:
        peer.sendall(request_of(wire.one, bytes(1000))[:-900])
        for _ in range(15):
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                peer.send(b" ")
        assert answer_of(peer).startswith(b"HTTP/1.1 408")
    assert is_served(running, wire)
    wire.wait_until(lambda: running.source._held_bytes == 0)


def test_large_heads_and_bodies(api_keys: Path, run_source: Any, wire: Any) -> None:
    """A header, many headers, a path without end; a body that says so and one that does not."""
    running = run_source(source_of(api_keys, body_bytes_max=50_000))
    heads = [
        b"GET /health HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /health?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
    for head in heads:
        with running.connect() as peer:
            peer.sendall(head)
            assert answer_of(peer)[9:12] in (b"400", b"431"), head[:40]
    with running.connect() as peer:  # never an end, each header small
        with contextlib.suppress(ConnectionError):
            peer.sendall(b"GET /health HTTP/1.1\r\n")
            for number in range(2000):
                peer.sendall(b"X-%d: %s\r\n" % (number, b"y" * 500))
        with contextlib.suppress(ConnectionError):
            assert answer_of(peer)[9:12] in (b"", b"400", b"431")
    with running.connect() as peer:
        peer.sendall(request_of(wire.one, LINE.replace(b"Seen", b"x" * 60_000)))
        assert answer_of(peer).startswith(b"HTTP/1.1 413")
    with running.connect() as peer:
        head = request_of(wire.one, b"").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        peer.sendall(head + b"ea60\r\n" + b"x" * 60_000 + b"\r\n0\r\n\r\n")
        assert answer_of(peer).startswith(b"HTTP/1.1 413")
    body = b"\n".join([LINE] * 500)
    with running.connect() as peer:
        peer.sendall(request_of(wire.one, body))
        assert answer_of(peer).startswith(b"HTTP/1.1 202")
    assert is_served(running, wire)
    wire.wait_until(lambda: running.source._held_bytes == 0)


def test_connections_are_bounded(api_keys: Path, run_source: Any, wire: Any) -> None:
    """From one network and in all; what is above is closed at once, the rest served."""
    running = run_source(source_of(api_keys, connection_count_per_network_max=3))
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running.connect()) for _ in range(3)]
        wire.wait_until(lambda: running.counter("connections_active") == 3)
        with running.connect() as fourth:
            assert answer_of(fourth) == b""
        peers[0].sendall(request_of(wire.one))
        assert answer_of(peers[0]).startswith(b"HTTP/1.1 202")
    wire.wait_until(lambda: running.counter("connections_active") == 0)
    assert running.counter("connections_refused") == 1
    assert is_served(running, wire)


def test_a_thousand_connections_are_held(api_keys: Path, run_source: Any, wire: Any) -> None:
    """Each keeps its connection over several requests."""
    running = run_source(source_of(api_keys, ack="accepted"))
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running.connect()) for _ in range(1000)]
        for _ in range(2):
            for peer in peers:
                peer.sendall(request_of(wire.one))
            assert all(answer_of(peer).startswith(b"HTTP/1.1 202") for peer in peers)
        assert running.counter("connections_active") == 1000
    running.finish()
    assert running.taker.events == 2000


def test_requests_cut_anywhere_and_senseless_bytes(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Nothing of them is taken but whole requests, and the next client is served."""
    running = run_source(source_of(api_keys, ack="accepted"))
    source = random.Random(7)
    whole = request_of(wire.one)
    for end in range(1, len(whole), 5):
        with running.connect() as peer:
            peer.sendall(whole[:end])
    assert is_served(running, wire)
    assert running.counter("events") == 1
    for _ in range(150):
        made = bytearray(whole)
        for _ in range(source.randrange(1, 6)):
            at = source.randrange(len(made))
            made[at : at + source.randrange(4)] = source.randbytes(source.randrange(4))
        with contextlib.suppress(OSError), running.connect() as peer:
            peer.sendall(bytes(made))
            peer.shutdown(socket.SHUT_WR)
            assert wire.one.hex().encode() not in answer_of(peer)
    assert is_served(running, wire)
    assert running.failure is None
    wire.wait_until(lambda: running.source._held_bytes == 0)


def test_a_full_window_is_503_and_the_rest_comes_later(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Too much under way: Retry-After. What was not kept in time is told so, not taken twice."""
    running = run_source(
        source_of(api_keys, ack_timeout_s=1, in_flight_bytes_max=1024 * 1024, batch_age_ms=1)
    )
    assert is_served(running, wire)
    taker.open_gate.clear()
    answers: list[bytes] = []

    def post() -> None:
        with running.connect() as peer:
            peer.sendall(request_of(wire.one, LINE + b" " * 200_000))
            answers.append(answer_of(peer))

    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 12
    assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
    assert all(b"Retry-After: 1" in answer for answer in answers)
    taker.open_gate.set()
    wire.wait_until(lambda: running.source._held_bytes == 0)
    assert is_served(running, wire)
    assert taker.events < 2 + 12


def test_ending_answers_what_came_and_refuses_the_rest(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """A request under way gets its 202; the connection is closed then."""
    running = run_source(source_of(api_keys, batch_age_ms=1))
    taker.open_gate.clear()
    with running.connect() as peer, running.connect() as other:
        peer.sendall(request_of(wire.one))
        assert taker.waiting.wait(60)
        running.stop.set()
        wire.wait_until(lambda: running.source._is_ending)
        other.sendall(request_of(wire.one))
        assert answer_of(other).startswith(b"HTTP/1.1 503")
        taker.open_gate.set()
        assert answer_of(peer).startswith(b"HTTP/1.1 202")
        running.finish()
    assert taker.events == 1


def test_a_key_that_is_taken_out_is_refused(api_keys: Path, run_source: Any, wire: Any) -> None:
    """From the next request on, on open connections too."""
    running = run_source(source_of(api_keys, api_keys_check_ms=20))
    with running.connect() as peer:
        peer.sendall(request_of(wire.one))
        assert answer_of(peer).startswith(b"HTTP/1.1 202")
        api_keys.write_text(f"{wire.two.hex()}:2\n")
        wire.wait_until(lambda: running.counter("api_key_reloads") == 1)
        peer.sendall(request_of(wire.one))
        assert answer_of(peer).startswith(b"HTTP/1.1 401")


def test_over_tls(api_keys: Path, run_source: Any, wire: Any) -> None:
    """The same behind a certificate; who does not speak TLS is no trouble."""
    running = run_source(
        source_of(api_keys, tls_cert=TLS / "certificate.pem", tls_key=TLS / "key.pem")
    )
    with running.connect() as plain:
        plain.sendall(request_of(wire.one))
        assert b"202" not in answer_of(plain)
    host, _, port = running.source.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    context.check_hostname = False
    connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
    connection.request("POST", f"/v1/events?token={wire.one.hex()}", LINE)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["accepted"]) == (202, 1)
    connection.close()


def test_a_proxy_is_believed_only_if_it_is_trusted(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """The address of each record is the client's."""
    for trusted, wanted in [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.9")]:
        running = run_source(source_of(api_keys, trusted_proxies=trusted))
        with running.connect() as peer:
            forwarded = b"X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n"
            peer.sendall(request_of(wire.one, LINE, forwarded))
            assert answer_of(peer).startswith(b"HTTP/1.1 202")
        assert wire.ip_at(taker.batches[-1], 0) == ip_bytes(wanted).tobytes()


@pytest.mark.parametrize(("forwarded", "wanted"), [
    ([], "10.0.0.1"), (["203.0.113.9"], "203.0.113.9"), (["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
    (["203.0.113.9, 10.0.0.2"], "203.0.113.9"), (["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
    (["unknown"], "10.0.0.1"), (["2001:db8::1"], "2001:db8::1"), (["10.0.0.3"], "10.0.0.3"),
    (["203.0.113.9, nonsense, 10.0.0.2"], "10.0.0.2"), (["::ffff:203.0.113.9"], "203.0.113.9"),
])  # fmt: skip
def test_whom_proxies_name(forwarded: list[str], wanted: str) -> None:
    """Read from the right, up to the first that is none of ours or that is no address."""
    found = client_ip("10.0.0.1", forwarded, TrustedPeers(["10.0.0.0/8"]))
    assert found.tobytes() == ip_bytes(wanted).tobytes()
