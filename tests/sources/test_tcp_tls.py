"""TLS in front of the tcp source, and whose addresses it believes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config

TLS = Path(__file__).parents[1] / "golden" / "tls"
CLIENT_IP = bytes.fromhex("20010db8000000000000000000000042")


def source_of(api_keys: Path, **options: Any) -> Any:
    plain = {"listen": "127.0.0.1:0", "api_keys": api_keys, **options}
    return load_source_config("tcp", plain).build(SourceContext("tcp_main"))


def tls_source(api_keys: Path, **options: Any) -> Any:
    files = {"tls_cert": TLS / "certificate.pem", "tls_key": TLS / "key.pem"}
    return source_of(api_keys, **files, **options)


def client_context(name: str = "", ca: str = "certificate.pem") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=TLS / ca)
    if name:
        context.load_cert_chain(TLS / f"{name}certificate.pem", TLS / f"{name}key.pem")
    return context


@contextlib.contextmanager
def connected(running: Any, context: ssl.SSLContext) -> Any:
    with (
        running.connect() as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        yield client


def is_refused(client: socket.socket) -> bool:
    client.settimeout(10)
    try:
        while client.recv(1000):  # an alert may come before the end
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_frames_come_through_whole(
    api_keys: Path, run_source: Any, wire: Any, taker: Any, version: ssl.TLSVersion
) -> None:
    """Small frames and one that spans many TLS records, in pieces of any size."""
    running = run_source(tls_source(api_keys, read_buffer_bytes=65536))
    frames = [wire.frame(wire.one, payloads=[b"x" * size]) for size in (1, 300_000, 5, 70_000) * 5]
    context = client_context()
    context.maximum_version = version
    with connected(running, context) as client:
        stream, position = b"".join(frames), 0
        for place in range(1000):
            step = 1 + place * 37 % 40_000
            client.sendall(stream[position : position + step])
            position += step
    wire.wait_until(lambda: taker.events == len(frames))
    running.finish()
    blanked = [frame[4:].replace(wire.one, bytes(16)) for frame in frames]
    assert taker.messages() == blanked


def test_what_is_not_tls_is_counted_and_the_rest_served(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """Plain frames, garbage, and a client that hangs up in the handshake."""
    running = run_source(tls_source(api_keys))
    with connected(running, client_context()) as client:
        for content in (wire.frame(wire.one), b"\x16\x03\x01\xff\xff" + bytes(300), b"GET / HTTP"):
            with running.connect() as plain:
                plain.sendall(content)
                assert is_refused(plain)
        running.connect().close()
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 1)
    wire.wait_until(lambda: running.counter("connections_active") == 0)
    assert running.counter("tls_errors") >= 3
    running.finish()


def test_a_handshake_that_stands_still_is_closed(
    api_keys: Path, run_source: Any, wire: Any
) -> None:
    """After the time that an unfinished frame has, not that of an idle client."""
    running = run_source(tls_source(api_keys, stalled_frame_timeout_s=1))
    with running.connect() as silent, running.connect() as slow:
        slow.sendall(b"\x16\x03\x01")
        assert is_refused(slow)
        assert is_refused(silent)
    running.finish()


def test_without_an_accepted_certificate_nothing_is_taken(
    api_keys: Path, run_source: Any, wire: Any, taker: Any
) -> None:
    """None, or a stranger's: refused; one of the right authority: taken."""
    running = run_source(tls_source(api_keys, tls_client_ca=TLS / "certificate.pem"))
    for name in ("", "stranger_"):
        with (
            contextlib.suppress(OSError),
            connected(running, client_context(name)) as client,
        ):
            client.sendall(wire.frame(wire.one))
            assert is_refused(client)
    assert taker.events == 0
    context = client_context()
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    with connected(running, context) as client:
        client.sendall(wire.frame(wire.one))
        wire.wait_until(lambda: taker.events == 1)
    running.finish()


def test_a_client_that_expects_another_authority_leaves(api_keys: Path, run_source: Any) -> None:
    """The certificate that is shown is the configured one."""
    running = run_source(tls_source(api_keys))
    with (
        running.connect() as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        client_context(ca="stranger_certificate.pem").wrap_socket(
            plain, server_hostname="127.0.0.1"
        )
    running.finish()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls_cert": "/nowhere.pem"}, "tls_cert: /nowhere.pem: No such file"),
        ({"tls_cert": TLS / "certificate.pem", "tls_key": TLS / "stranger_key.pem"}, "mismatch"),
        (
            {
                "tls_cert": TLS / "certificate.pem",
                "tls_key": TLS / "key.pem",
                "tls_client_ca": TLS / "key.pem",
            },
            "tls_client_ca",
        ),
    ],
)
def test_wrong_files_are_named_at_the_start(
    api_keys: Path, options: dict[str, Any], text: str, taker: Any
) -> None:
    """The source does not begin to listen."""
    source = source_of(api_keys, **options)
    with pytest.raises(ConfigError, match=f"(?i){text}"):
        source.run(taker, threading.Event())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls_key": TLS / "key.pem"}, "need tls_cert"),
        ({"ack": True}, "need forwarding = true"),
        ({"forwarding": True, "forwarding_peers": ["10.0.0.1/8"]}, "host bits"),
    ],
)
def test_options_that_do_not_fit_are_named(
    api_keys: Path, options: dict[str, Any], text: str
) -> None:
    """Before anything starts."""
    with pytest.raises(ConfigError, match=text):
        source_of(api_keys, **options)


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ([], CLIENT_IP),
        (["127.0.0.0/8"], CLIENT_IP),
        (["2001:db8::/32", "127.0.0.1"], CLIENT_IP),
        (["10.0.0.0/8", "::1/128"], bytes(10) + b"\xff\xff\x7f\x00\x00\x01"),
    ],
)
def test_addresses_are_believed_of_the_named_peers_only(
    api_keys: Path, run_source: Any, wire: Any, taker: Any, peers: list[str], expected: bytes
) -> None:
    """A message from elsewhere is taken, under the address it came from."""
    running = run_source(source_of(api_keys, forwarding=True, forwarding_peers=peers))
    with running.connect() as client:
        client.sendall(wire.frame(wire.one, source_ip=CLIENT_IP))
        wire.wait_until(lambda: taker.events == 1)
    running.finish()
    assert wire.ip_at(taker.batches[0], 0) == expected


def test_forwarding_for_everybody_is_warned_of(api_keys: Path) -> None:
    """Unless certificates or networks say who may."""

    def warnings(**options: Any) -> list[str]:
        plain = {"listen": ":0", "api_keys": api_keys, "forwarding": True, **options}
        return load_source_config("tcp", plain).warnings()

    assert "may claim any address" in warnings()[0]
    assert warnings(forwarding_peers=["10.0.0.0/8"]) == []
    assert warnings(tls_cert=TLS / "certificate.pem", tls_client_ca=TLS / "key.pem") == []


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_drain_takes_all_that_open_connections_send(
    api_keys: Path, run_source: Any, wire: Any, taker: Any, is_tls: bool
) -> None:
    """Clients that watch for our leaving stop, and lose nothing of what they sent until then."""
    make = tls_source if is_tls else source_of
    running = run_source(make(api_keys, stop_read_ms_max=10_000))
    frame, sent = wire.frame(wire.one, payloads=[b"y" * 1000]), [0] * 4

    def send(place: int) -> None:
        with running.connect() as plain:
            client = plain
            if is_tls:
                client = client_context().wrap_socket(plain, server_hostname="127.0.0.1")
            while True:
                client.sendall(frame)
                sent[place] += 1
                if _has_left(client):
                    client.close()
                    return
                time.sleep(0.001)

    threads = [threading.Thread(target=send, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    wire.wait_until(lambda: taker.events > 100)
    running.finish(20)
    for thread in threads:
        thread.join(60)
    assert taker.events == sum(sent)
    assert running.counter("frames_torn") == 0


def _has_left(client: socket.socket) -> bool:
    """Whether the other side has said that it takes no more."""
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except OSError:
        return False
    finally:
        client.settimeout(10)
