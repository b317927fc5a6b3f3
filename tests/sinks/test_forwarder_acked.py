"""The forwarder in ack mode against a real source: once, whatever breaks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.errors import ConfigError, PartialWriteError, TerminalError, TransientError
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import numbered_batch, numbered_events

TLS = Path(__file__).parents[1] / "golden" / "tls"
FILES = {"tls_cert": TLS / "certificate.pem", "tls_key": TLS / "key.pem"}


@pytest.fixture
def region(tmp_path: Path, collectors: Any) -> Iterator[Callable[..., Any]]:
    """Makes sources with ack mode, and stops them."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(collectors.Region(tmp_path, **{"forwarding": True, "ack": True, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def opened(far: Any, **options: Any) -> Any:
    plain = {"target": far.target, "api_key": far.key.hex(), "ack": True, **options}
    sink = load_config("forwarder", plain).build(SinkContext("far"))
    sink.open()
    return sink


def settle(sink: Any, expected: int) -> list[Any]:
    """Ask as a lane does until so many are settled."""
    done: list[Any] = []
    until = time.monotonic() + 20
    while len(done) < expected:
        assert time.monotonic() < until
        done += sink.committed()
    return done


@pytest.mark.parametrize("message_bytes", [100, 100_000])
def test_batches_are_settled_without_a_flush(region: Any, message_bytes: int) -> None:
    """Each under the id it has here, in order."""
    far = region()
    sink = opened(far)
    batches = [numbered_events(number, 1, message_bytes, 20) for number in range(30)]
    for batch in batches:
        sink.write(batch)
    assert sink.due_in_ms(0) > 0 or not sink.counters()["unsettled"]
    assert settle(sink, 30) == [batch.header.batch_id for batch in batches]
    assert sink.due_in_ms(0) == 0
    sink.close()
    assert far.numbers() == [number for number in range(30) for _ in range(20)]
    kept = [batch.header for batch in far.keeper.batches]
    assert [header.sequence for header in kept] == list(range(30))
    assert [h.received_at_ms for h in kept] == [b.header.received_at_ms for b in batches]


def test_a_receiver_that_is_killed_gets_it_again_and_keeps_it_once(
    region: Any, collectors: Any
) -> None:
    """The connection is cut in the middle of units, again and again."""
    far = region()
    proxy = collectors.Link(far.target)
    sink = opened(far, target=proxy.target)
    expected = []
    for number in range(40):
        batch = numbered_events(number, 1, 5_000, 10)
        expected += [number] * 10
        while True:
            try:
                sink.write(batch)
                sink.committed()
                break
            except TransientError:
                time.sleep(0.005)
        if number % 7 == 3:
            proxy.cut_after(10_000 * (number % 5))
    while True:
        try:
            sink.flush()
            break
        except TransientError:
            time.sleep(0.005)
    assert sink.counters()["connections_lost"] >= 3
    sink.close()
    assert sorted(far.numbers()) == expected
    proxy.close()


def test_a_second_life_sends_again_and_nothing_is_there_twice(region: Any) -> None:
    """The sink forgets everything with its process; the receiver does not."""
    far = region()
    for _ in range(3):
        sink = opened(far)
        for number in range(10):
            sink.write(numbered_events(number, messages=5))
        sink.flush()
        sink.close()
    assert far.numbers() == [number for number in range(10) for _ in range(5)]


def test_a_plain_receiver_is_an_error_of_the_configuration(region: Any, collectors: Any) -> None:
    """At the start; one that turns plain later is retried, with the same text."""
    plain = region(ack=False)
    with pytest.raises(ConfigError, match="ack = true"):
        opened(plain)
    far = region()
    proxy = collectors.Link(far.target)
    sink = opened(far, target=proxy.target)
    proxy.target_address = plain.target
    proxy.cut_after(0)
    texts = set()
    for _ in range(50):
        with pytest.raises(TransientError) as caught:
            sink.write(numbered_events(1))
        texts.add(str(caught.value))
        if any("ack = true" in text for text in texts):
            break
    assert any("ack = true" in text for text in texts)
    proxy.target_address = far.target
    sink.write(numbered_events(1))
    sink.close()
    assert far.numbers() == [1]
    proxy.close()


def test_a_receiver_that_is_away_at_the_start_is_noted(region: Any, collectors: Any) -> None:
    """The sink opens, and sends when the other side is there."""
    far = region()
    address = far.target
    far.close()
    sink = opened(far, target=address)
    assert "not to be had yet" in sink.notes[0]
    with pytest.raises(TransientError, match="Connection refused"):
        sink.write(numbered_events(1))
    back = region(listen=address)
    sink.write(numbered_events(1))
    sink.close()
    assert back.numbers() == [1]


def test_a_wrong_key_is_told_as_the_receiver_tells_it(region: Any) -> None:
    """And waits: the receiver's key file may change."""
    far = region()
    sink = opened(far, api_key="00" * 16)
    sink.write(numbered_events(1))
    with pytest.raises(TransientError, match="does not know the api key"):
        sink.flush()
    assert far.keeper.batches == []


def test_messages_that_can_not_be_sent_are_named(region: Any) -> None:
    """What is no message at all is settled here, as a dead letter; nothing is owed for it."""
    far = region()
    sink = opened(far)
    with pytest.raises(PartialWriteError, match="envelope is not valid"):
        sink.write(numbered_batch(1, messages=2))
    assert settle(sink, 1) == [numbered_batch(1).header.batch_id]
    batch = numbered_events(2, messages=3)
    with pytest.raises(TerminalError, match="offsets"):
        sink.write(type(batch)(batch.header, batch.records[1:], batch.offsets))
    sink.close()


def test_both_sides_verify_each_other(region: Any) -> None:
    """TLS with certificates of both; a stranger is refused whichever side it is on."""
    far = region(**FILES, tls_client_ca=TLS / "certificate.pem")
    trust: dict[str, Any] = {"tls": True, "ca_cert": TLS / "certificate.pem"}
    own = {"client_cert": TLS / "certificate.pem", "client_key": TLS / "key.pem"}
    sink = opened(far, **trust, **own)
    for number in range(5):
        sink.write(numbered_events(number, 1, 200_000, 3))
    sink.close()
    assert far.numbers() == [number for number in range(5) for _ in range(3)]
    stranger = {
        "client_cert": TLS / "stranger_certificate.pem",
        "client_key": TLS / "stranger_key.pem",
    }
    for wrong, text in (
        (trust, "certificate|reset|closed"),
        (trust | stranger, "unknown ca|certificate|reset|closed"),
        ({"tls": True, **own}, "its certificate is not accepted"),
        ({"tls": True, "ca_cert": TLS / "stranger_certificate.pem", **own}, "not accepted"),
        (trust | own | {"server_name": "elsewhere.example"}, "not accepted"),
        ({}, "does not answer|closed|Connection reset|closes when"),
    ):
        try:
            sink = opened(far, connect_timeout_s=1, **wrong)
        except ConfigError as error:
            assert "closes when it is greeted" in str(error)  # noqa: PT017 - a plain greeting
            continue
        with pytest.raises(TransientError, match=f"(?i){text}"):
            sink.write(numbered_events(9))
    assert 9 not in far.numbers()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ca_cert": "/nowhere.pem"}, "ca_cert: /nowhere.pem: No such file"),
        (
            {"client_cert": TLS / "certificate.pem", "client_key": TLS / "stranger_key.pem"},
            "client_cert",
        ),
    ],
)
def test_wrong_certificates_are_named_when_it_opens(
    region: Any, options: dict[str, Any], text: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError, match=text):
        opened(region(), tls=True, **options)


def test_tls_to_the_plain_protocol(tmp_path: Path, collectors: Any) -> None:
    """Without ack mode: any collector behind a proxy that ends TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    collector = collectors.Collector(context)
    sink = opened(collector, ack=False, tls=True, ca_cert=TLS / "certificate.pem")
    for number in range(3):
        sink.write(numbered_events(number, 1, 100_000, 5))
    sink.close()
    collectors.wait_until(lambda: len(collector.messages()) == 15)
    collector.close()
