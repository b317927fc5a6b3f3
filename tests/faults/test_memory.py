"""Ten million events pass through and no process keeps any of them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from cdp_ray_sinks.config import PipelineConfig
from cdp_ray_sinks.pipeline import Pipeline

MIB = 1024 * 1024
GROWTH_BYTES_MAX = 24 * MIB


def private_bytes(pid: int) -> int:
    """Memory that this process alone holds; mapped store pages are shared and don't count."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return 1024 * sum(int(fields[f"Private_{kind}"].split()[0]) for kind in ("Clean", "Dirty"))


@pytest.mark.soak
def test_private_memory_of_every_process_stays_flat(tmp_path: Path) -> None:
    """What a process holds after a quarter of the events is what it holds at the end."""
    config = PipelineConfig(
        pipeline={"name": "flat", "state_dir": tmp_path / "state"},
        sources={"made": {"type": "synthetic", "events": 10_000_000, "workspaces": 4}},
        sinks={
            "archive": {
                "type": "disk_binary",
                "path": tmp_path / "a",
                "segment_bytes_max": 1 << 28,
            },
            "nothing": {"type": "null"},
        },
    )
    samples: list[tuple[int, dict[str, int]]] = []
    over = threading.Event()

    def sample(pipeline: Pipeline) -> None:
        while not over.is_set():
            actors = pipeline.status()["actors"]
            events = pipeline.summary()["sources"].get("made", {}).get("events", 0)
            samples.append((events, {a["name"]: private_bytes(a["pid"]) for a in actors}))
            time.sleep(0.5)

    with Pipeline(config) as pipeline:
        sampler = threading.Thread(target=sample, args=(pipeline,))
        sampler.start()
        pipeline.wait()
        over.set()
        sampler.join()
    warm = next(held for events, held in samples if events >= 2_500_000)
    last = samples[-1][1]
    growth = {name: last[name] - held for name, held in warm.items() if name in last}
    print({name: f"{last[name] / MIB:.0f} MiB, {g / MIB:+.1f}" for name, g in growth.items()})
    assert max(growth.values()) < GROWTH_BYTES_MAX, growth
