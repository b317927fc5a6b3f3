"""A chaos run: a pipeline, faults until the time is over, a drain, and everything read back."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.chaos.faults import Fault, in_turn, injected, last, possible
from cdp_ray_sinks.chaos.probe import NAME as PROBE
from cdp_ray_sinks.chaos.probe import Probe
from cdp_ray_sinks.chaos.processes import Actor, MemoryWatch
from cdp_ray_sinks.chaos.read_back import Expected, read_archive, read_rows, read_tables
from cdp_ray_sinks.chaos.report import Injected, Report
from cdp_ray_sinks.chaos.settings import ChaosSettings, config_text
from cdp_ray_sinks.chaos.small_disk import SmallDisk
from cdp_ray_sinks.config import PipelineConfig, loads
from cdp_ray_sinks.delivery.audit import Folders, audit
from cdp_ray_sinks.errors import CdpError
from cdp_ray_sinks.pipeline import Pipeline
from cdp_ray_sinks.placeholders import resolved

CONFIG_FILE: Final = "chaos.toml"
DRAIN_S: Final = 180.0
PAUSE_S_MAX: Final = 2.0
START_S: Final = 120.0


class ChaosRun:
    """One run in `settings.directory`, which must not exist or be empty.

    Only processes that it has started itself are shot at.
    """

    def __init__(self, settings: ChaosSettings) -> None:
        self.settings = settings
        self.directory = settings.directory
        self.server: ClickHouseServer | None = None
        self.small_disk: SmallDisk | None = None
        self.report = Report(
            settings.seed, settings.seconds, settings.scenarios, settings.events_per_s,
            str(settings.directory),
        )  # fmt: skip
        self._chance = random.Random(settings.seed)
        self._began_s = 0.0

    def run(self, is_kept: bool) -> Report:
        """Do it all. With `is_kept` the directory can be audited afterwards."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as leaving:
            self._start_server(leaving)
            if "disk" in self.settings.scenarios:
                self.small_disk = SmallDisk(self.directory / "small", self.settings.mirror_bytes)
                leaving.callback(self.small_disk.close, is_kept)
            path = self.directory / CONFIG_FILE
            path.write_text(
                config_text(self.settings, None if self.server is None else self.server.url)
            )
            config = loads(path.read_text(), str(path))
            self._run_pipeline(config)
            self._read_back(config)
            # Its server ends with the run: what stays to be audited has no rows in it.
            path.write_text(config_text(self.settings, None))
        return self.report

    def _start_server(self, leaving: ExitStack) -> None:
        try:
            server = ClickHouseServer(self.directory / "clickhouse")
            server.start()
        except (LookupError, RuntimeError) as error:
            self.settings.say(f"without ClickHouse: {error}")
            return
        leaving.callback(server.kill)
        self.server = server

    # -- while it runs ------------------------------------------------------------------

    def _run_pipeline(self, config: PipelineConfig) -> None:
        pipeline = Pipeline(config, self.settings.say)
        watch = MemoryWatch()
        try:
            pipeline.start()
            probe = Probe(pipeline.producer(PROBE), self.settings.first_probe_number)
            if probe.ask(START_S) is None:
                raise CdpError("nothing was settled in the beginning, before any fault")
            self._began_s = time.monotonic()
            for fault in self._drawn():
                actors = _actors(pipeline)
                watch.watch(actors)
                self._make(fault, actors, probe)
            self._drain(pipeline)
            self.report.probe_events = probe.events
        finally:
            self.report.memory = watch.stop()
            pipeline.stop()

    def _drawn(self) -> Iterator[Fault]:
        """Faults at random instants until the time is over, none again before all others.

        The scenarios take turns; there is at least one fault of each.
        """
        faults, self.report.left_out = possible(self, self.settings.scenarios)
        until_s = self._began_s + self.settings.seconds
        due = {fault.scenario for fault in faults}
        deck: deque[Fault] = deque()
        while faults:
            pause_s = self._chance.uniform(0, min(PAUSE_S_MAX, self.settings.seconds / 4))
            if not due and time.monotonic() + pause_s > until_s:
                break
            time.sleep(pause_s)
            if not deck:
                deck.extend(in_turn(self._chance.sample(faults, len(faults))))
            fault = deck.popleft()
            due.discard(fault.scenario)
            if fault.is_once:
                faults.remove(fault)
            yield fault
        time.sleep(max(0.0, until_s - time.monotonic()))

    def _make(self, fault: Fault, actors: list[Actor], probe: Probe) -> None:
        at_s = time.monotonic() - self._began_s
        shortest_s, longest_s = fault.seconds
        longest_s = max(shortest_s, min(longest_s, self.settings.seconds / 6))
        seconds = self._chance.uniform(shortest_s, longest_s)
        one = Injected(at_s, fault.scenario, fault.what, "", 0.0)

        def ask() -> None:
            waited_s = probe.ask()
            one.stuck |= waited_s is None
            one.meanwhile_s = max(one.meanwhile_s or 0.0, waited_s or 0.0)

        with injected(fault, self, actors, self._chance) as target:
            if target is not None:
                last(fault, self, seconds, ask if fault.others_go_on else None)
        if target is None:
            return
        one.target = target
        one.lasted_s = time.monotonic() - self._began_s - at_s
        one.settled_s = probe.ask()
        one.stuck |= one.settled_s is None
        self.report.injected.append(one)
        self.settings.say(_told(one))

    def _drain(self, pipeline: Pipeline) -> None:
        self.settings.say("the time is over; draining")
        began_s = time.monotonic()
        try:
            pipeline.drain(DRAIN_S)
        except CdpError as error:
            self.report.problems.append(f"draining: {error}")
        self.report.drain_s = time.monotonic() - began_s
        summary = pipeline.summary()
        self.report.sinks = summary["sinks"]
        self.report.events = summary["sources"]["steady"]["events"]
        self.report.victim_events = summary["sources"].get("victim", {}).get("events", 0)

    # -- afterwards ---------------------------------------------------------------------

    def _read_back(self, config: PipelineConfig) -> None:
        self.settings.say("reading everything back")
        first = self.settings.first_probe_number
        probes = (first, first + self.report.probe_events)
        expected = Expected(probes[1], [(0, self.report.events), probes])
        if not any(each.what == "SIGKILL for good" for each in self.report.injected):
            start = self.settings.events
            expected.ranges.append((start, start + self.report.victim_events))
        found = self.report.destinations
        found.append(read_archive("archive", self.directory / "archive", expected))
        found.append(read_tables("tables", self.directory / "tables", expected))
        found.append(read_archive("mirror", self.directory / "small" / "mirror", expected))
        if self.server is not None:
            found.append(read_rows("rows", self.server.url, expected))
        sinks = {
            name: resolved(sink, os.environ, f"sinks.{name}")
            for name, sink in config.active_sinks().items()
        }
        folders = Folders(
            config.accounts_dir(), config.spool_dir(), config.dead_letter_dir(), config.sinks_dir()
        )
        self.report.audit = audit(sinks, folders)


def run_chaos(settings: ChaosSettings, is_kept: bool) -> Report:
    """Run it. Raises CdpError if the pipeline does not even start, OSError for the directory."""
    return ChaosRun(settings).run(is_kept)


def _actors(pipeline: Pipeline) -> list[Actor]:
    return [Actor(a["name"], a["kind"], a["pid"]) for a in pipeline.status()["actors"]]


def _told(one: Injected) -> str:
    text = f"{one.at_s:6.1f} s  {one.what}: {one.target}"
    if one.lasted_s > 0.1:
        text += f", for {one.lasted_s:.1f} s"
    if one.settled_s is None:
        return text + "; NOTHING SETTLED FOR A MINUTE"
    if one.meanwhile_s is not None:
        text += f", others waited {one.meanwhile_s:.2f} s at most"
    return text + f"; settled {one.settled_s:.2f} s later"
