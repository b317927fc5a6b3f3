"""Archives into a pipeline, part by part over the cluster.

A batch's id follows from its segment, the part of it and its place there, whatever was asked for.
So what was replayed before, in a run that failed or with another time range, is known to the
lanes and not written again, as long as they remember it (168 hours).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import ray

from cdp_ray_sinks.actors.joining import Joined
from cdp_ray_sinks.errors import CorruptSegmentError
from cdp_ray_sinks.files.archive_parts import ArchivePart
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.ray_data.write_task import Settling, WriteReport

POLL_S: Final = 0.5
DAMAGE_MAX: Final = 20


@dataclass(slots=True)
class ReplayReport:
    """What was replayed; `outcomes` count events by sink. `damage` has its first places."""

    written: WriteReport = field(default_factory=WriteReport)
    messages: int = 0
    record_bytes: int = 0
    damage_count: int = 0
    damage: list[str] = field(default_factory=list)

    def add(self, other: ReplayReport) -> None:
        """Count another part in."""
        self.written.add(other.written)
        self.messages += other.messages
        self.record_bytes += other.record_bytes
        self.damage_count += other.damage_count
        self.damage = [*self.damage, *other.damage][:DAMAGE_MAX]

    def tell(self, damage: CorruptSegmentError) -> None:
        """Note a place that could not be read."""
        self.damage_count += 1
        if len(self.damage) < DAMAGE_MAX:
            self.damage.append(str(damage))


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What all tasks of a replay are told. Rates are those of one task, None without a bound."""

    pipeline: str
    namespace: str
    selection: Selection
    bytes_per_s: float | None = None
    events_per_s: float | None = None


def replay_part(plan: ReplayPlan, part: ArchivePart) -> ReplayReport:
    """Send one part; on return its batches are settled by every required sink.

    Raises WriteFailedError, ConfigError when there is no such pipeline.
    """
    name = f"replay/{part.segment_id}/{part.start}"
    joined = Joined(plan.pipeline, plan.namespace)
    settling = Settling(joined, name, f"replay of {part.path} from byte {part.start}")
    tries = 0
    try:
        while True:
            report = _send(plan, part, settling)
            tries += 1
            if settling.may_stop(report.written, tries):
                return report
    finally:
        settling.close()


def _send(plan: ReplayPlan, part: ArchivePart, settling: Settling) -> ReplayReport:
    report, began_s = ReplayReport(), time.monotonic()
    for place, batch in part.batches(plan.selection, report.tell):
        if not batch.header.workspace_id:
            report.tell(CorruptSegmentError(part.path, 0, "nothing says whose it is"))
            break
        settling.submit(batch, place)
        report.messages += batch.header.message_count
        report.record_bytes += batch.header.record_bytes
        _keep_to_rate(plan, report.record_bytes, settling.events, began_s)
    report.written = settling.settle()
    return report


def _keep_to_rate(plan: ReplayPlan, held_bytes: int, events: int, began_s: float) -> None:
    due_s = 0.0
    if plan.bytes_per_s is not None:
        due_s = held_bytes / plan.bytes_per_s
    if plan.events_per_s is not None:
        due_s = max(due_s, events / plan.events_per_s)
    time.sleep(max(0.0, began_s + due_s - time.monotonic()))


def replay_parts(
    plan: ReplayPlan,
    parts: Sequence[ArchivePart],
    on_part: Callable[[ArchivePart], None] = lambda part: None,
) -> ReplayReport:
    """Send all parts, as many at once as the cluster has cores; a rate is shared out to them.

    A part whose process is lost is sent again. Raises what `replay_part` raises; other parts
    that were under way by then may be durable, and a second run completes the rest.
    """
    cores = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    at_once = max(1, min(len(parts), cores))
    shared = ReplayPlan(
        plan.pipeline,
        plan.namespace,
        plan.selection,
        None if plan.bytes_per_s is None else plan.bytes_per_s / at_once,
        None if plan.events_per_s is None else plan.events_per_s / at_once,
    )
    wrap: Any = ray.remote(num_cpus=1, max_retries=3)
    task = wrap(replay_part)
    report = ReplayReport()
    running: dict[Any, ArchivePart] = {}
    waiting = list(reversed(parts))
    while waiting or running:
        while waiting and len(running) < at_once:
            part = waiting.pop()
            running[task.remote(shared, part)] = part
        done, _ = ray.wait(list(running), timeout=POLL_S)
        for ref in done:
            part = running.pop(ref)
            try:
                report.add(ray.get(ref))
            except ray.exceptions.RayTaskError as error:
                raise getattr(error, "cause", error) from None
            on_part(part)
    return report
