"""`cdp-sinks replay`: archives into a pipeline, over the cluster; twice is as once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdp_ray_sinks.cli.archive_reading import check_paths
from cdp_ray_sinks.cli.output import (
    Complaints,
    bytes_text,
    count_text,
    print_json,
    results_apart,
    say,
)
from cdp_ray_sinks.cli.progress import byte_bar
from cdp_ray_sinks.cli.rates import parse_rate
from cdp_ray_sinks.config import load
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive_parts import ArchivePart, archive_parts
from cdp_ray_sinks.files.selection import Selection


def replay_archive(
    path: Path,
    into: Path | None,
    name: str | None,
    address: str | None,
    rate_text: str | None,
    selection: Selection,
    as_json: bool,
) -> int:
    """Send what is selected to the sinks of a file, or into a pipeline that runs.

    1 if something could not be read, or a sink gave up on something.
    """
    from cdp_ray_sinks.ray_data.archive_replay import ReplayPlan, replay_parts

    if (into is None) == (name is None):
        raise ConfigError("replay: give --into FILE, or --name of a pipeline that runs")
    rate = None if rate_text is None else parse_rate(rate_text)
    check_paths([path])
    damaged = Complaints("damaged")
    parts = list(archive_parts(path.absolute(), selection, damaged.tell))
    total_bytes = sum(part.record_bytes for part in parts)
    done_bytes = 0
    began_s = time.monotonic()
    with results_apart() as results, _pipeline(into, name, address) as (running, namespace):
        plan = ReplayPlan(
            running, namespace, selection,
            rate.per_s if rate and rate.of == "bytes" else None,
            rate.per_s if rate and rate.of == "events" else None,
        )  # fmt: skip
        with byte_bar("replaying", is_quiet=as_json) as advance:

            def on_part(part: ArchivePart) -> None:
                nonlocal done_bytes
                done_bytes += part.record_bytes
                if advance is not None:
                    advance(done_bytes, total_bytes)

            report = replay_parts(plan, parts, on_part)
        for text in report.damage:
            damaged.tell(text)
        damaged.count += report.damage_count - len(report.damage)
        damaged.tell_rest()
        elapsed_s = time.monotonic() - began_s
        written = report.written
        if as_json:
            print_json(
                {"parts": len(parts), "batches": written.batches, "messages": report.messages,
                 "events": written.events, "bytes": report.record_bytes,
                 "damaged": damaged.count, "elapsed_s": round(elapsed_s, 3),
                 "sinks": written.outcomes},
                results,
            )  # fmt: skip
        else:
            results.write(
                f"{count_text(written.events)} events in {count_text(report.messages)} messages, "
                f"{bytes_text(report.record_bytes)} in {elapsed_s:.1f} s\n"
            )
            for sink, outcomes in sorted(written.outcomes.items()):
                told = ", ".join(f"{count_text(n)} {what}" for what, n in outcomes.items())
                results.write(f"{sink}: {told}\n")
    gave_up = any(set(o) - {"durable", "spooled"} for o in written.outcomes.values())
    return 1 if damaged.count or gave_up else 0


@contextmanager
def _pipeline(
    into: Path | None, name: str | None, address: str | None
) -> Iterator[tuple[str, str]]:
    """Name and namespace of the pipeline, which is drained afterwards if it is our own."""
    from cdp_ray_sinks.actors.cluster import join_running
    from cdp_ray_sinks.actors.specs import NAMESPACE
    from cdp_ray_sinks.pipeline import Pipeline

    if into is None:
        assert name is not None
        join_running(address, NAMESPACE)
        yield name, NAMESPACE
        return
    config = load(into, needs_source=False).model_copy(update={"sources": {}})
    if address is not None:
        config = config.model_copy(
            update={"ray": config.ray.model_copy(update={"address": address})}
        )
    with Pipeline(config, report=say):
        yield config.pipeline.name, config.ray.namespace
