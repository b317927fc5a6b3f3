"""`send --ack` and `--tls`: settled over there, once, whatever breaks on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.cli.send import send_paths
from cdp_ray_sinks.errors import ConfigError, TransientError
from cdp_ray_sinks.sinks.forwarder_peer import TlsOptions
from cdp_ray_sinks.sources.framing import FrameBlock
from cdp_ray_sinks.sources.send import connect
from cdp_ray_sinks.sources.send_acked import send_units
from cdp_ray_sinks.testing import numbered_events

TLS = Path(__file__).parents[1] / "golden" / "tls"


@pytest.fixture
def region(tmp_path: Path, collectors: Any) -> Iterator[Callable[..., Any]]:
    """Makes sources with ack mode, and stops them."""
    made: list[Any] = []

    def make(**options: Any) -> Any:
        options = {"forwarding": True, "ack": True, **options}
        made.append(collectors.Region(tmp_path / "far", **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def blocks_of(collectors: Any, count: int) -> Iterator[FrameBlock]:
    """Blocks of one frame with events 0 to count - 1."""
    from cdp_ray_sinks.writers.forward_frames import FrameWrapper

    wrapper = FrameWrapper(collectors.KEY)
    for number in range(count):
        wrapped = wrapper.wrap(numbered_events(number, 1, 20_000), is_sliceable=False)
        content = np.frombuffer(bytes(wrapped.pieces[0]), np.uint8)
        yield FrameBlock(content, np.array([len(content)]), np.array([1]), number + 1)


def test_units_are_sent_again_until_they_are_settled(region: Any, collectors: Any) -> None:
    """The link is cut now and then; every number is there once, and counted once."""
    far = region()
    link = collectors.Link(far.target)

    def reach() -> Any:
        host, _, port = link.target.rpartition(":")
        return connect(host, int(port), 5)

    def progress(done: int) -> None:
        if done % 30 == 10:
            link.cut_after(50_000)

    sent = send_units(blocks_of(collectors, 120), reach, progress=progress)
    assert (sent.frames, sent.events, sent.is_taken) == (120, 120, True)
    assert link.cuts >= 2
    assert far.numbers() == list(range(120))
    link.close()


def test_what_stands_in_the_way_is_said(region: Any, collectors: Any) -> None:
    """No ack mode, a refusal, a receiver that is away."""
    plain, far = region(ack=False), region(forwarding_peers=["10.0.0.0/8"])

    def sent_to(far: Any, timeout_s: float = 1) -> None:
        host, _, port = far.target.rpartition(":")
        send_units(
            blocks_of(collectors, 2), lambda: connect(host, int(port), 5), timeout_s=timeout_s
        )

    with pytest.raises(ConfigError, match="no ack mode"):
        sent_to(plain)
    with pytest.raises(TransientError, match="may not forward"):
        sent_to(far)
    plain.close()
    with pytest.raises(TransientError, match="Connection refused"):
        sent_to(plain)


def test_a_stop_ends_with_what_is_settled(region: Any, collectors: Any) -> None:
    """Nothing more is begun."""
    far = region()
    host, _, port = far.target.rpartition(":")
    stop = threading.Event()

    def until_seven() -> Iterator[FrameBlock]:
        for number, block in enumerate(blocks_of(collectors, 100)):
            if number == 7:
                stop.set()
            yield block

    sent = send_units(until_seven(), lambda: connect(host, int(port), 5), stop=stop)
    assert (sent.events, sent.is_taken) == (7, False)
    assert far.numbers() == list(range(7))


def test_an_archive_goes_by_tls_and_is_settled(
    synthetic_archive: Path, region: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Both sides show certificates."""
    far = region(
        tls_cert=TLS / "certificate.pem",
        tls_key=TLS / "key.pem",
        tls_client_ca=TLS / "certificate.pem",
    )
    both = tmp_path / "both.pem"
    both.write_text((TLS / "certificate.pem").read_text() + (TLS / "key.pem").read_text())
    tls = TlsOptions(True, TLS / "certificate.pem", both)
    key = far.key.hex()
    for is_acked in (True, False):
        assert not send_paths(
            [synthetic_archive], far.target, None, key, True, tls=tls, is_acked=is_acked
        )
        report = json.loads(capsys.readouterr().out)
        assert report["taken"]
        assert report["events"] > 0
        far.numbers()  # all that came has been taken
        taken = sum(batch.header.event_count for batch in far.keeper.batches)
        assert taken == report["events"] * (1 if is_acked else 2)
    away = tmp_path / "away.pem"
    with pytest.raises(ConfigError, match="ca_cert"):
        send_paths([synthetic_archive], far.target, None, key, True, tls=TlsOptions(True, away))
