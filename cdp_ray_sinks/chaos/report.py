"""What a chaos run found, and whether anything that is promised was broken."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from cdp_ray_sinks.chaos.processes import MemoryLife
from cdp_ray_sinks.chaos.settings import Scenario
from cdp_ray_sinks.delivery.audit import Audit


@dataclass(slots=True)
class Injected:
    """One fault that was made: when, what, to which, how long it lasted.

    `settled_s`: after a kill, or once it was made good, a batch of every workspace was settled
    within so many seconds; None if not within a minute. `meanwhile_s` the longest that this
    took while it lasted, where others are to go on.
    """

    at_s: float
    scenario: Scenario
    what: str
    target: str
    lasted_s: float
    settled_s: float | None = None
    meanwhile_s: float | None = None
    stuck: bool = False


@dataclass(slots=True)
class Destination:
    """What was read back, by the running numbers in the payloads.

    `lost` were taken and are not there, `twice` are there more than once, `strange` carry no
    number that was given out, `disordered` batches stand before an older one of their producer
    and workspace. `damage` is what `verify` names.
    """

    name: str
    type: str
    expected: int = 0
    found: int = 0
    lost: int = 0
    twice: int = 0
    strange: int = 0
    disordered: int | None = None
    damage: list[str] = field(default_factory=list)
    lowest_lost: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it is as promised."""
        return not (self.lost or self.twice or self.strange or self.disordered or self.damage)


@dataclass(slots=True)
class Report:
    """The whole run."""

    seed: int
    seconds: float
    scenarios: tuple[Scenario, ...]
    events_per_s: float
    directory: str
    events: int = 0
    victim_events: int = 0
    probe_events: int = 0
    drain_s: float = 0.0
    injected: list[Injected] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    destinations: list[Destination] = field(default_factory=list)
    sinks: dict[str, dict[str, Any]] = field(default_factory=dict)
    audit: Audit = field(default_factory=Audit)
    memory: list[MemoryLife] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def kill_times_s(self) -> list[float]:
        """From each SIGKILL until every workspace had a batch settled again, in order of size."""
        kills = (each for each in self.injected if each.what.startswith("SIGKILL"))
        return sorted(each.settled_s for each in kills if each.settled_s is not None)

    @property
    def longest_meanwhile_s(self) -> float | None:
        """The longest that others waited while a sink with a spool was away."""
        waited = [each.meanwhile_s for each in self.injected if each.meanwhile_s is not None]
        return max(waited, default=None)

    @property
    def broken(self) -> list[str]:
        """Every promise that was broken, a sentence each."""
        found = list(self.problems)
        for one in self.destinations:
            found += [f"{one.name}: {text}" for text in _broken_at(one)]
        for each in self.injected:
            if each.stuck:
                found.append(
                    f"nothing was settled for a minute, {each.what} of {each.target} "
                    f"at {each.at_s:.1f} s"
                )
        for name, sink in self.sinks.items():
            for what in ("dropped", "dead_letters", "left_in_spool"):
                if sink[what]:
                    found.append(f"{name}: {sink[what]} {what.replace('_', ' ')}")
        if not self.audit.ok:
            found.append("the audit differs")
        for life in self.memory:
            if life.is_flat is False:
                grown = (life.late_bytes - life.early_bytes) / 1e6
                found.append(f"{life.name}: its memory grew by {grown:.0f} MB")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The shape of `chaos --json`."""
        kills = self.kill_times_s
        return {
            "ok": not self.broken,
            "broken": self.broken,
            "seed": self.seed,
            "seconds": self.seconds,
            "scenarios": list(self.scenarios),
            "events_per_s": self.events_per_s,
            "directory": self.directory,
            "events": self.events,
            "victim_events": self.victim_events,
            "probe_events": self.probe_events,
            "drain_s": round(self.drain_s, 2),
            "faults": [asdict(each) for each in self.injected],
            "left_out": self.left_out,
            "settled_after_kill_s": {
                "count": len(kills),
                "median": median(kills) if kills else None,
                "max": kills[-1] if kills else None,
            },
            "longest_wait_of_others_s": self.longest_meanwhile_s,
            "destinations": {one.name: asdict(one) for one in self.destinations},
            "sinks": self.sinks,
            "audit": {
                "ok": self.audit.ok,
                "differences": [
                    f"{sink.name}: {each.kind} {each.by.events} events of workspace "
                    f"{each.place.workspace_id}"
                    for sink in self.audit.sinks
                    for each in sink.differences
                ],
            },
            "memory": [
                {
                    "name": life.name,
                    "pid": life.pid,
                    "lived_s": round(life.lived_s, 1),
                    "early_bytes": life.early_bytes,
                    "late_bytes": life.late_bytes,
                    "is_flat": life.is_flat,
                }
                for life in self.memory
            ],
        }


def _broken_at(one: Destination) -> list[str]:
    found = []
    if one.lost:
        lowest = ", ".join(map(str, one.lowest_lost))
        found.append(f"{one.lost} events lost, the lowest are {lowest}")
    if one.twice:
        found.append(f"{one.twice} events are there twice")
    if one.strange:
        found.append(f"{one.strange} events that nobody has sent")
    if one.disordered:
        found.append(f"{one.disordered} batches are out of order")
    return found + one.damage
