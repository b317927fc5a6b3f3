"""Text files of a pipeline whose chain actor is killed: every event has one line."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import ray

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.files.archive import verify
from cdp_ray_sinks.pipeline import Pipeline

Make = Callable[..., PipelineConfig]


def numbers_in(base: Path) -> Counter[int]:
    """The running numbers in all lines of all files, each of which must be whole."""
    found: Counter[int] = Counter()
    for path in [*base.rglob("*.log"), *base.rglob("*.log.lz4")]:
        if path.stat().st_size == 0:
            continue
        with lz4.frame.open(path) if path.suffix == ".lz4" else path.open("rb") as file:
            text: bytes = file.read()
        lines = re.findall(rb' \[TRACK\] .* payload=\{"n":(\d+)\}\n', text)
        assert len(lines) == text.count(b"\n")
        assert text.endswith(b"\n")
        found.update(int(number) for number in lines)
    return found


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_a_killed_chain_loses_and_doubles_no_line(
    make_config: Make, maker: Any, tmp_path: Path, compression: str
) -> None:
    """What was sent again is told by the ledger that lies beside the lines."""
    text = {"type": "disk_plaintext", "path": tmp_path / "text", "compression": compression}
    config = make_config(sinks={"text": text})
    with Pipeline(config) as pipeline:
        producer = pipeline.producer("mine")
        tickets = []
        for sequence in range(60):
            numbers = range(20 * sequence, 20 * sequence + 20)
            messages = [maker.message(filler=b'{"n":%d}' % number) for number in numbers]
            tickets.append(producer.submit(maker.batch(messages, sequence=sequence)))
            if sequence in (20, 40):
                tickets[sequence - 10].result(60)
                chain = ray.get_actor(f"{config.pipeline.name}/chain/text/0", "cdp_ray_sinks")
                os.kill(ray.get(chain.identity.remote())["pid"], signal.SIGKILL)
        for ticket in tickets:
            assert ticket.result(60) == {"text": "durable"}
    assert numbers_in(tmp_path / "text") == Counter(range(1200))
    report = verify(tmp_path / "text")
    assert (report.ok, report.events, report.messages) == (True, 1200, 1200)
