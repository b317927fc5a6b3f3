"""The faults: what is done to which process, server or disk, and how it is made good again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final, Protocol

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.chaos.processes import Actor, file_size_limited, frozen, kill, raylet_of
from cdp_ray_sinks.chaos.settings import Scenario
from cdp_ray_sinks.chaos.small_disk import SmallDisk, read_only

SLOW_STEP_S: Final = 0.3
SLOW_RUNS_S: Final = 0.03
SPOOL_KILL_SHARE: Final = 0.5


class Stage(Protocol):
    """What faults are done to."""

    server: ClickHouseServer | None
    small_disk: SmallDisk | None
    directory: Path


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that can go wrong.

    `targets` are beginnings of actors' names, or what else it is done to. It lasts from
    `seconds[0]` to `seconds[1]`. With `others_go_on` a batch is settled all the while,
    because the sink it is done to has a spool.
    """

    scenario: Scenario
    what: str
    targets: tuple[str, ...]
    seconds: tuple[float, float] = (0.0, 0.0)
    others_go_on: bool = False
    is_once: bool = False


KILLED: Final = (
    "router", "chain/archive", "chain/tables", "sink/archive", "sink/tables", "sink/rows",
    "chain/mirror", "spool/rows", "spool/mirror", "sink/mirror",
)  # fmt: skip
FROZEN: Final = ("router", "chain/", "source/steady", "sink/", "spool/")
ALL_FAULTS: Final = (
    *(Fault("kills", "SIGKILL", (name,)) for name in KILLED),
    *(Fault("kills", "SIGSTOP", (name,), (0.2, 3.0)) for name in FROZEN),
    Fault("kills", "SIGSTOP of raylet", ("",), (0.2, 2.0)),
    Fault("kills", "SIGKILL for good", ("source/victim",), is_once=True),
    Fault("outage", "server stopped", ("rows",), (1.0, 8.0), True),
    Fault("outage", "server frozen", ("rows",), (1.0, 8.0), True),
    Fault("outage", "server slow", ("rows",), (1.0, 8.0), True),
    Fault("outage", "disk hangs", ("chain/mirror",), (1.0, 8.0), True),
    Fault("disk", "disk full", ("mirror",), (1.0, 5.0), True),
    Fault("disk", "file size limited", ("chain/archive", "chain/tables"), (0.5, 3.0)),
    Fault("disk", "file size limited", ("chain/mirror",), (0.5, 3.0), True),
    Fault("disk", "read-only", ("archive", "tables"), (0.5, 3.0)),
)


def possible(stage: Stage, scenarios: Sequence[Scenario]) -> tuple[list[Fault], list[str]]:
    """The faults of these scenarios that can be made here, and what is left out and why."""
    wanted = [fault for fault in ALL_FAULTS if fault.scenario in scenarios]
    left_out = []
    if stage.server is None and any("rows" in name for f in wanted for name in f.targets):
        wanted = [fault for fault in wanted if not fault.targets[0].endswith("rows")]
        left_out.append("ClickHouse: pip install 'cdp-ray-sinks[chdb]' brings a server")
    if stage.small_disk is not None and not stage.small_disk.is_mounted:
        wanted = [fault for fault in wanted if fault.what != "disk full"]
        left_out.append("a full disk: mounting a small one needs rights that are not there")
    return wanted, left_out


def in_turn(faults: Sequence[Fault]) -> list[Fault]:
    """The same faults, of each scenario one and then of each another."""
    by_scenario: dict[Scenario, list[Fault]] = {}
    for fault in faults:
        by_scenario.setdefault(fault.scenario, []).append(fault)
    return [f for some in zip_longest(*by_scenario.values()) for f in some if f is not None]


@contextmanager
def injected(
    fault: Fault, stage: Stage, actors: Sequence[Actor], chance: random.Random
) -> Iterator[str | None]:
    """The fault lasts as long as the block; what it was done to, None if it was not possible.

    `actors` are the pipeline's as they are now.
    """
    match fault.what:
        case "server stopped" | "server frozen" | "server slow":
            with _server_fault(fault.what, stage):
                yield "rows" + _kill_spool("rows", actors, chance)
        case "disk full":
            assert stage.small_disk is not None
            with stage.small_disk.full():
                yield "mirror"
        case "read-only":
            name = chance.choice(fault.targets)
            with read_only(stage.directory / name) as is_done:
                yield name if is_done else None
        case _:
            with _process_fault(fault, actors, chance) as done:
                yield done


@contextmanager
def _process_fault(
    fault: Fault, actors: Sequence[Actor], chance: random.Random
) -> Iterator[str | None]:
    prefix = chance.choice(fault.targets)
    found = [a for a in actors if a.short_name.startswith(prefix) and a.is_there]
    found.sort(key=lambda actor: actor.name)
    if not found:
        yield None
        return
    one = chance.choice(found)
    pids, name = [actor.pid for actor in found], f"{prefix}/*"
    match fault.what:
        case "SIGKILL" | "SIGKILL for good":
            yield one.short_name if kill(one) else None
        case "SIGSTOP":
            with frozen([one.pid]):
                yield one.short_name
        case "SIGSTOP of raylet":
            raylet = raylet_of(one)
            with nullcontext() if raylet is None else frozen([raylet]):
                yield None if raylet is None else "raylet"
        case "disk hangs":
            with frozen(pids):
                yield name + _kill_spool("mirror", actors, chance)
        case "file size limited":
            with file_size_limited(pids, 0):
                yield name
        case _:
            raise AssertionError(fault.what)


@contextmanager
def _server_fault(what: str, stage: Stage) -> Iterator[None]:
    server = stage.server
    assert server is not None
    with ExitStack() as heal:
        if what == "server stopped":
            server.kill()
            heal.callback(server.start)
        else:
            heal.callback(server.pause, False)
            server.pause()
        yield


def _kill_spool(sink: str, actors: Sequence[Actor], chance: random.Random) -> str:
    """Now and then, while it fills up: its actor too; what that adds to the name."""
    if chance.random() >= SPOOL_KILL_SHARE:
        return ""
    spools = [actor for actor in actors if actor.short_name == f"spool/{sink}"]
    return " and its spool" if any(map(kill, spools)) else ""


def last(fault: Fault, stage: Stage, seconds: float, meanwhile: Callable[[], None] | None) -> None:
    """Let a fault last; a slow server runs a little now and then. `meanwhile` is done all along."""
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        if fault.what == "server slow" and stage.server is not None:
            stage.server.pause(False)
            time.sleep(SLOW_RUNS_S)
            stage.server.pause()
        if meanwhile is not None:
            meanwhile()
        time.sleep(min(SLOW_STEP_S, max(0.0, left_s)))
