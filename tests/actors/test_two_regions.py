"""Two pipelines and a bad link between them: the far archive is the near one, event by event."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.delivery.audit import Folders, audit
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.files.archive_reading import read_located
from cdp_ray_sinks.files.commit_index import xxh3
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.testing import numbered_events

KEY = "cd" * 16
FAR_WORKSPACE = 7


def addressed_batch(number: int) -> Batch:
    """Three events of that number, from an address that is told by it."""
    made = numbered_events(number, 1 + number % 2, 400, 3, int(time.time() * 1000))
    records = made.records.copy()
    for start in made.offsets[:-1].tolist():
        records[start + 8 : start + 24] = np.frombuffer(address_of(number), np.uint8)
    header = made.header._replace(checksum=xxh3(records))
    return Batch(header, records, made.offsets)


def address_of(number: int) -> bytes:
    return bytes.fromhex("20010db8") + bytes(8) + number.to_bytes(4, "big")


def landed(archive: Path) -> list[tuple[int, bytes]]:
    """Number and address of each event, in no order."""
    found = []
    for located in read_located([archive], lambda *at: pytest.fail(f"damaged: {at}")):
        batch = located.batch
        payloads = decode_events(batch).table["payload"].to_pylist()
        for start, payload in zip(batch.offsets[:-1].tolist(), payloads, strict=True):
            number = int(payload[5 : payload.index(b",")])
            found.append((number, batch.records[start + 8 : start + 24].tobytes()))
    return sorted(found)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def watched(pipeline: Pipeline) -> Iterator[None]:
    """Restarts what a test kills, as a run does."""
    stop = threading.Event()
    watcher = threading.Thread(target=pipeline.wait, args=(None, stop))
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join(20)


def kill(pipeline: Pipeline, kind: str) -> None:
    """SIGKILL an actor of that kind, if one runs at the moment."""
    victims = [a for a in pipeline.status()["actors"] if a["kind"] == kind and a["pid"]]
    for victim in victims[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGKILL)


def trouble(chance: random.Random, link: Any, near: Pipeline, far: Pipeline) -> list[Any]:
    """What befalls the link and both ends, each once, in an order of the seed's."""
    faults = [
        lambda: link.cut(),
        lambda: link.cut_after(20_000),
        lambda: setattr(link, "delay_s", 0.05),
        lambda: setattr(link, "bytes_per_s", 300_000.0),
        lambda: kill(far, "source"),
        lambda: kill(near, "sink"),
        lambda: kill(far, "chain"),
        lambda: kill(near, "router"),
        lambda: (setattr(link, "delay_s", 0.0), setattr(link, "bytes_per_s", None)),
        lambda: kill(far, "router"),
    ]
    chance.shuffle(faults)
    return faults


def run_regions(
    make_config: Callable[..., PipelineConfig],
    tmp_path: Path,
    collectors: Any,
    *,
    seed: int,
    batches: int,
    fault_count: int,
) -> None:
    """Send, with trouble all the while; then both archives hold the same, and accounts agree."""
    (tmp_path / "keys").write_text(f"{KEY}:{FAR_WORKSPACE}\n")
    address = f"127.0.0.2:{free_port('127.0.0.2')}"
    link = collectors.Link(address)
    far_config = make_config(
        sources={"regions": {"type": "tcp", "listen": address, "api_keys": tmp_path / "keys",
                             "forwarding": True, "ack": True,
                             "forwarding_peers": ["127.0.0.0/8"]}},
        sinks={"archive": {"type": "disk_binary", "path": tmp_path / "far"}},
    )  # fmt: skip
    near_config = make_config(
        sinks={
            "archive": {"type": "disk_binary", "path": tmp_path / "near"},
            "far": {"type": "forwarder", "target": link.target, "api_key": KEY, "ack": True,
                    "spool_after_ms": 1500, "write_timeout_s": 5, "connect_timeout_s": 2},
        },
    )  # fmt: skip
    own = near_config.pipeline.model_copy(update={"state_dir": tmp_path / "near-state"})
    near_config = near_config.model_copy(update={"pipeline": own})
    chance = random.Random(seed)
    with Pipeline(far_config) as far, watched(far):  # noqa: SIM117 - the near one leaves first
        with Pipeline(near_config) as near, watched(near):
            faults = trouble(chance, link, near, far)[:fault_count]
            every = max(1, batches // (len(faults) + 1))
            producer = near.producer("mine")
            for number in range(batches):
                producer.submit(addressed_batch(number))
                if number % every == every - 1 and faults:
                    faults.pop()()
                time.sleep(0.004)
            link.delay_s, link.bytes_per_s = 0.0, None
            producer.flush(120)
            wait_until_there(tmp_path / "far", 3 * batches)
            producer.close(60)
    link.close()
    expected = sorted((n, address_of(n)) for n in range(batches) for _ in range(3))
    assert landed(tmp_path / "near") == expected
    assert landed(tmp_path / "far") == expected
    assert {path.name for path in (tmp_path / "far").iterdir() if path.name.isdigit()} == {"7"}
    for config in (near_config, far_config):
        folders = Folders(
            config.accounts_dir(), config.spool_dir(), config.dead_letter_dir(), config.sinks_dir()
        )
        found = audit(config.active_sinks(), folders)
        assert [s.differences for s in found.sinks] == [[] for _ in found.sinks], config.pipeline


def wait_until_there(archive: Path, events: int) -> None:
    """What is spooled comes later than the ticket of its batch."""
    until = time.monotonic() + 120
    while not archive.exists() or verify(archive).events < events:
        assert time.monotonic() < until, verify(archive).events
        time.sleep(0.3)


def test_the_far_archive_is_the_near_one(
    make_config: Callable[..., PipelineConfig], tmp_path: Path, collectors: Any
) -> None:
    """A short round: the link cut, the receiving source and the sending sink killed."""
    run_regions(make_config, tmp_path, collectors, seed=3, batches=250, fault_count=4)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_ten_rounds_of_all_troubles(
    make_config: Callable[..., PipelineConfig], tmp_path: Path, collectors: Any, seed: int
) -> None:
    """Cut, delayed, throttled; every kind of actor of both ends killed, in ten orders."""
    run_regions(make_config, tmp_path, collectors, seed=seed, batches=900, fault_count=10)
