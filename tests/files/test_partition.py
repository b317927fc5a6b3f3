"""Where a batch's file is, from its workspace and the time it was received."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.errors import TerminalError
from cdp_ray_sinks.files.partition import partition_of, segment_name


@given(st.integers(1, 2**32 - 1), st.integers(0, 253_402_300_799_999))
def test_hourly_path_names_workspace_date_and_hour_in_utc(workspace_id: int, at_ms: int) -> None:
    """Any time lands in the directory that its UTC hour names, inside its bounds."""
    partition = partition_of(workspace_id, at_ms, "hourly")
    expected = datetime.fromtimestamp(at_ms // 1000, UTC)
    assert partition.directory(Path("base")) == Path(
        f"base/{workspace_id}/{expected:%Y-%m-%d}/{expected:%H}"
    )
    assert partition.starts_at_ms <= at_ms < partition.ends_at_ms
    assert partition.ends_at_ms - partition.starts_at_ms == 3_600_000


def test_daily_path_has_no_hour() -> None:
    """Daily rotation leaves the hour out and ends with the UTC day."""
    partition = partition_of(7, 1_767_225_600_000 + 86_399_999, "daily")
    assert partition.directory(Path("b")) == Path("b/7/2026-01-01")
    assert partition.ends_at_ms == 1_767_225_600_000 + 86_400_000


@pytest.mark.parametrize("workspace_id", [0, -1, 2**32])
def test_a_batch_without_a_workspace_has_no_place(workspace_id: int) -> None:
    """Workspace 0 and numbers that are no u32 are refused, by their number."""
    with pytest.raises(TerminalError, match=f"workspace {workspace_id} "):
        partition_of(workspace_id, 0, "hourly")


@pytest.mark.parametrize("at_ms", [-1, 253_402_300_800_000, 2**63])
def test_a_time_that_no_date_names_is_refused(at_ms: int) -> None:
    """A received time before 1970 or after 9999 is the batch's fault, not a crash."""
    with pytest.raises(TerminalError, match="received time"):
        partition_of(1, at_ms, "daily")


def test_later_segments_carry_their_place() -> None:
    """The first segment of a partition has the plain name."""
    assert segment_name("data", 0, ".bin") == "data.bin"
    assert segment_name("data", 3, ".bin.lz4") == "data-3.bin.lz4"
