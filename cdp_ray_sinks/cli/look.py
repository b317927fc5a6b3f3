"""A pipeline as one sees it: rows of sources, routers, sinks and workspaces from its status.

From one look come totals, from two also rates and the latencies in between. What a process
counted begins anew when it is restarted, so looks are compared process by process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cdp_ray_sinks.latency import added, quantile_s

OTHERS: Final = "others"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """A status, and when it was taken, in seconds of a clock that never goes back."""

    at_s: float
    found: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One actor in the newer look, and the same process in the older one, if it was there."""

    name: str
    kind: str
    node: str
    now: Mapping[str, Any]
    before: Mapping[str, Any] | None


def view(now: Look, before: Look | None = None) -> dict[str, Any]:
    """What `top` and `status` show, as plain data.

    Rates are per second and None without an older look; latencies are those since the older
    look, or since each process began; seconds, None where nothing was settled.
    """
    interval_s = None if before is None else max(1e-3, now.at_s - before.at_s)
    actors = list(_seen(now, before))
    return {
        "pipeline": now.found["pipeline"],
        "interval_s": None if interval_s is None else round(interval_s, 3),
        "nodes": len({actor.node for actor in actors}),
        "actors": len(actors),
        "is_restarted": before is not None and all(actor.before is None for actor in actors),
        "silent": list(now.found.get("silent", ())),
        "sources": [_source(actor, interval_s) for actor in actors if actor.kind == "source"],
        "routers": [_router(actor, interval_s) for actor in actors if actor.kind == "router"],
        "sinks": _sinks(actors, interval_s),
        "workspaces": _workspaces(actors, interval_s),
        "problems": _problems(actors),
    }


def _seen(now: Look, before: Look | None) -> Iterator[Seen]:
    earlier = {} if before is None else {(a["name"], a["pid"]) for a in before.found["actors"]}
    for actor in now.found["actors"]:
        name = actor["name"]
        known = before is not None and (name, actor["pid"]) in earlier
        older = before.found["reports"].get(name) if known and before is not None else None
        node = str(actor["node"])[:12]
        yield Seen(name, actor["kind"], node, now.found["reports"].get(name, {}), older)


def _rate(
    actors: Iterable[Seen], total: Callable[[Mapping[str, Any]], float], interval_s: float | None
) -> float | None:
    """How much a total rose a second, over all the actors."""
    if interval_s is None:
        return None
    rises = (total(a.now) - total(a.before) for a in actors if a.before is not None)
    return round(sum(max(0, rise) for rise in rises) / interval_s, 3)


def _latencies(
    actors: Iterable[Seen], counts: Callable[[Mapping[str, Any]], list[int] | None]
) -> Row:
    """p50 and p99 of what was settled between the looks, over all the actors."""
    found = []
    for actor in actors:
        now = counts(actor.now)
        before = None if actor.before is None else counts(actor.before)
        if now and before:
            found.append([max(0, n - b) for n, b in zip(now, before, strict=True)])
        elif now:
            found.append(now)
    together = added(found)
    shares = {"p50_s": 0.5, "p99_s": 0.99}
    return {name: _rounded(quantile_s(together, share)) for name, share in shares.items()}


def _rounded(latency_s: float | None) -> float | None:
    return None if latency_s is None else round(latency_s, 4)


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _source(actor: Seen, interval_s: float | None) -> Row:
    report = actor.now
    return {
        "name": _last(actor.name),
        "node": actor.node,
        "state": report["state"],
        "events": report["flow"]["events"],
        "bytes": report["flow"]["bytes"],
        "events_per_s": _rate([actor], lambda r: r["flow"]["events"], interval_s),
        "bytes_per_s": _rate([actor], lambda r: r["flow"]["bytes"], interval_s),
        "in_flight_batches": report["in_flight_batches"],
        "in_flight_bytes": report["in_flight_bytes"],
        "lag_s": round(report["flow"]["lag_s"], 3),
        **_latencies([actor], lambda r: r["flow"]["latency"]),
        "resends": report["resends"],
        "problem": report["error"] or report["problem"] or None,
    }


def _router(actor: Seen, interval_s: float | None) -> Row:
    sinks = actor.now["sinks"].values()
    return {
        "name": actor.name.split("/", 1)[-1],
        "node": actor.node,
        "batches": actor.now["batches_routed"],
        "batches_per_s": _rate([actor], lambda r: r["batches_routed"], interval_s),
        "held_batches": actor.now["in_router"],
        "queued_bytes": sum(sink["queued_bytes"] for sink in sinks),
        "in_flight_bytes": sum(sink["in_flight_bytes"] for sink in sinks),
        "lag_s": round(max((sink["lag_s"] for sink in sinks), default=0.0), 3),
        "recoveries": sum(sink.get("recoveries", 0) for sink in sinks),
    }


def _sinks(actors: list[Seen], interval_s: float | None) -> list[Row]:
    routers = [actor for actor in actors if actor.kind == "router"]
    names = sorted({name for router in routers for name in router.now["sinks"]})
    return [_sink(name, actors, routers, interval_s) for name in names]


def _sink(name: str, actors: list[Seen], routers: list[Seen], interval_s: float | None) -> Row:
    own = [actor for actor in actors if actor.now.get("sink") == name]
    lanes = [actor for actor in own if actor.kind != "spool"]
    spools = [actor.now.get("spool") or {} for actor in own if actor.kind == "spool"]
    routed = [router.now["sinks"][name] for router in routers if name in router.now["sinks"]]
    settled: dict[str, dict[str, int]] = {}
    for sink in routed:
        for outcome, counts in sink["flow"]["outcomes"].items():
            total = settled.setdefault(outcome, dict.fromkeys(counts, 0))
            for what, count in counts.items():
                total[what] += count
    taken = [settled.get(outcome, {}) for outcome in ("durable", "spooled")]

    def latency(report: Mapping[str, Any]) -> list[int] | None:
        sink = report["sinks"].get(name)
        return None if sink is None else list(sink["flow"]["latency"])

    return {
        "name": name,
        "lanes": len(lanes),
        "state": _sink_state(own, routed),
        "events": sum(counts.get("events", 0) for counts in taken),
        "bytes": sum(counts.get("bytes", 0) for counts in taken),
        "events_per_s": _rate(lanes, lambda r: r["metrics"]["events_written"], interval_s),
        "bytes_per_s": _rate(lanes, lambda r: r["metrics"]["bytes_written"], interval_s),
        "queued_batches": sum(sink.get("queued", 0) for sink in routed),
        "queued_bytes": sum(sink["queued_bytes"] for sink in routed),
        "in_flight_bytes": sum(sink["in_flight_bytes"] for sink in routed),
        "spool_batches": sum(spool.get("batches", 0) for spool in spools),
        "spool_bytes": sum(spool.get("held_bytes", 0) for spool in spools),
        "lag_s": round(max((sink["lag_s"] for sink in routed), default=0.0), 3),
        **_latencies(routers, latency),
        "errors": sum(actor.now["metrics"]["write_errors"] for actor in own),
        "dropped_events": settled.get("dropped", {}).get("events", 0)
        + sum(spool.get("dropped_events", 0) for spool in spools),
        "dead_letters": sum(actor.now["metrics"]["dead_letters"] for actor in own),
    }


def _sink_state(own: list[Seen], routed: list[Mapping[str, Any]]) -> str:
    """`retrying` if something fails, else `spooling` if it goes to the spool, else `well`."""
    if any(actor.now["last_error"] for actor in own):
        return "retrying"
    states = {sink.get("spool", {}).get("state") for sink in routed}
    return "spooling" if "spooling" in states else "well"


def _workspaces(actors: list[Seen], interval_s: float | None) -> list[Row]:
    """The busiest ones; what is not counted one by one comes last as `others`."""
    routers = [actor for actor in actors if actor.kind == "router"]
    keys = {key for router in routers for key in router.now["workspaces"]}
    rows = [_workspace(key, routers, interval_s) for key in keys]
    return sorted(
        rows,
        key=lambda row: (
            row["workspace"] == OTHERS,
            -(row["events_per_s"] or 0.0),
            -row["events"],
            str(row["workspace"]),
        ),
    )


def _workspace(key: str, routers: list[Seen], interval_s: float | None) -> Row:
    def part(report: Mapping[str, Any], what: str) -> Any:
        return report["workspaces"].get(key, {}).get(what, 0)

    # Only a router that told of it both times can say how it rose.
    both = [r for r in routers if r.before is not None and key in r.before["workspaces"]]
    both = [router for router in both if key in router.now["workspaces"]]
    return {
        "workspace": OTHERS if key == "0" else int(key),
        "events": sum(part(router.now, "events") for router in routers),
        "bytes": sum(part(router.now, "bytes") for router in routers),
        "events_per_s": _rate(both, lambda r: part(r, "events"), interval_s),
        "bytes_per_s": _rate(both, lambda r: part(r, "bytes"), interval_s),
        "in_flight_bytes": sum(part(router.now, "in_flight_bytes") for router in routers),
        "lag_s": round(max(part(router.now, "lag_s") for router in routers), 3),
        **_latencies(routers, lambda r: part(r, "latency") or None),
        "lost_events": sum(part(router.now, "lost_events") for router in routers),
    }


def _problems(actors: list[Seen]) -> list[str]:
    """What is wrong with sources and what sinks are retried for, a sentence each."""
    found = []
    for actor in actors:
        report = actor.now
        text = report.get("error") or report.get("problem") or report.get("last_error")
        if text:
            found.append(f"{actor.name.split('/', 1)[-1]}: {text}")
    return found
