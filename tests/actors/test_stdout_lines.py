"""What a stdout sink says is printed by the driver, in order, and holds up nobody else."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import LinesLostError, Pipeline

Make = Callable[..., PipelineConfig]
SINKS = {"screen": {"type": "stdout", "color": False}, "nothing": {"type": "null"}}


class Printer:
    """Keeps what is printed; waits while it is told to."""

    def __init__(self) -> None:
        self.text = ""
        self.may_print = threading.Event()
        self.may_print.set()

    def __call__(self, text: str) -> None:
        assert self.may_print.wait(60)
        self.text += text

    def numbers(self) -> list[int]:
        return [int(number) for number in re.findall(r'\{"n":(\d+)\}\n', self.text)]


def batches(maker: Any, count: int, per_batch: int = 20) -> list[Any]:
    """Batches whose events have running numbers in their payloads."""
    made = []
    for sequence in range(count):
        numbers = range(sequence * per_batch, (sequence + 1) * per_batch)
        messages = [maker.message(filler=b'{"n":%d}' % number) for number in numbers]
        made.append(maker.batch(messages, sequence=sequence))
    return made


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_lines_are_printed_in_order_before_the_answer(make_config: Make, maker: Any) -> None:
    """Durable means printed."""
    printer = Printer()
    with Pipeline(make_config(sinks=SINKS), print_text=printer) as pipeline:
        producer = pipeline.producer("mine")
        tickets = [producer.submit(batch) for batch in batches(maker, 30)]
        for place, ticket in enumerate(tickets):
            assert ticket.result(30) == {"screen": "durable", "nothing": "durable"}
            assert printer.numbers()[: 20 * (place + 1)] == list(range(20 * (place + 1)))
    assert printer.numbers() == list(range(600))


def test_a_printer_that_is_stuck_holds_up_no_other_sink(make_config: Make, maker: Any) -> None:
    """The others have all of it meanwhile; then it goes on, and nothing is lost."""
    printer = Printer()
    printer.may_print.clear()
    with Pipeline(make_config(sinks=SINKS), print_text=printer) as pipeline:
        producer = pipeline.producer("mine")
        tickets = [producer.submit(batch) for batch in batches(maker, 100, 100)]
        until(lambda: pipeline.lane_metrics()["nothing"].events_written == 10_000)
        assert not any(ticket.done() for ticket in tickets)
        assert printer.text == ""
        printer.may_print.set()
        for ticket in tickets:
            ticket.result(60)
    assert printer.numbers() == list(range(10_000))


def test_a_killed_sink_shows_again_what_was_not_printed(make_config: Make, maker: Any) -> None:
    """Lines may come twice, none is missing."""
    printer = Printer()
    config = make_config(sinks=SINKS)
    with Pipeline(config, print_text=printer) as pipeline:
        producer = pipeline.producer("mine")
        made = batches(maker, 60, 50)
        tickets = [producer.submit(batch) for batch in made[:30]]
        tickets[5].result(30)
        lane = ray.get_actor(f"{config.pipeline.name}/sink/screen", "cdp_ray_sinks")
        os.kill(ray.get(lane.identity.remote())["pid"], signal.SIGKILL)
        tickets += [producer.submit(batch) for batch in made[30:]]
        for ticket in tickets:
            assert ticket.result(60)["screen"] == "durable"
    assert set(printer.numbers()) == set(range(3000))


def test_a_stream_that_is_closed_ends_the_run(make_config: Make, maker: Any) -> None:
    """As `| head` does: said once, and the pipeline can still be drained."""

    def fail(text: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    config = make_config(sinks=SINKS)
    pipeline = Pipeline(config, print_text=fail)
    pipeline.start()
    try:
        ticket = pipeline.producer("mine").submit(batches(maker, 1)[0])
        ticket.result(30)
        with pytest.raises(LinesLostError, match="'screen': its lines can't be printed: Broken"):
            pipeline.wait()
        with pytest.raises(LinesLostError):
            pipeline.drain(30)
    finally:
        pipeline.stop()
