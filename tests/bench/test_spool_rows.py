"""The rows of spool, accounts and isolation find all that they wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_ray_sinks.actors import supervisor
from cdp_ray_sinks.bench import spool_rows as rows_module
from cdp_ray_sinks.bench.settings import Settings
from cdp_ray_sinks.bench.spool_rows import spool_config, spool_rows
from cdp_ray_sinks.delivery.account_files import read_accounts

MIB = 1024 * 1024


def test_all_rows_are_read_back(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each lap in a workspace of its own; only what is to have accounts has some."""
    monkeypatch.setattr(rows_module, "GIB", 128 * MIB)  # the cluster of the session is small
    monkeypatch.setattr(supervisor, "SPOOLED_TIMEOUT_S", 1.0)
    monkeypatch.setattr(rows_module, "BATCH_EVENTS", 1000)
    rows = list(spool_rows(Settings(4_000, 1, "small", tmp_path, lambda text: None)))
    assert [row.variant for row in rows] == ["spooled", "accounted", "isolation"]
    for row in rows:
        assert row.read_back == row.events == 4_000
        assert row.ratio is not None
    accounts = read_accounts(spool_config(tmp_path / "spool").accounts_dir())
    taken = {
        name: sum(c.events for c in counts.values()) for name, counts in accounts.taken.items()
    }
    assert taken["with"] == 10 * 4_000
    assert "without" not in taken
