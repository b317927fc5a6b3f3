"""The rows of many workspaces find all that they wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cdp_ray_sinks.bench import workspace_rows as rows_module
from cdp_ray_sinks.bench.material import spread_batches
from cdp_ray_sinks.bench.private_memory import private_bytes
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.bench.workspace_rows import PACK_BYTES, packs_of, workspace_rows
from cdp_ray_sinks.cli.bench import row_text

MIB = 1024 * 1024


def test_all_rows_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event once, in workspaces that were new and in those that were there."""
    monkeypatch.setattr(rows_module, "WORKSPACES", 30)
    monkeypatch.setattr(rows_module, "GIB", 128 * MIB)  # the cluster of the session is small
    settings = Settings(6_000, 2, "small", tmp_path, lambda text: None)
    rows = list(workspace_rows(settings))
    assert [(row.variant, row.limit) for row in rows] == [
        ("many_workspaces", "one workspace"),
        ("many_workspaces_open", "one workspace"),
        ("many_workspaces_files", "bare mkdir, open, write"),
    ]
    for row in rows:
        assert row.read_back == row.events == 6_000
        assert row.ratio is not None
        assert row.private_bytes is not None
        assert row.private_bytes > 50 * MIB
        assert "private memory" in row_text(row)
    written = [path.name for path in (tmp_path / "workspaces").iterdir()]
    assert len(written) == 2 * 30 + 2 + len(rows_module.WARM_WORKSPACES)


def test_batches_are_spread_and_packed_as_a_source_does() -> None:
    """Every workspace has as much; a pack is closed when it is full."""
    batches = spread_batches(40_000, "tell", 40, first_number=7)
    assert [batch.header.workspace_id for batch in batches] == list(range(1, 41))
    packs = list(packs_of(batches))
    assert [batch for pack in packs for batch in pack] == batches
    sizes = [sum(batch.header.record_bytes for batch in pack) for pack in packs]
    assert len(packs) > 1
    assert min(sizes[:-1]) >= PACK_BYTES > sizes[0] - max(b.header.record_bytes for b in packs[0])


HOLD = """
import sys
import numpy as np
memory = np.ones(int(sys.argv[1]), np.uint8)
print(len(memory), flush=True)
sys.stdin.readline()
"""


def test_private_memory_is_that_of_all_processes_below() -> None:
    """What a child holds counts, and no longer once it is gone; who is not there counts nothing."""
    before = private_bytes()
    command = [sys.executable, "-c", HOLD, str(200 * MIB)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert int(child.stdout.readline()) == 200 * MIB
        assert private_bytes() - before > 190 * MIB
        assert 200 * MIB < private_bytes(child.pid) < 600 * MIB
    assert private_bytes() - before < 100 * MIB
    assert private_bytes(2**22 + 1) == 0
