"""When a segment ends."""

from __future__ import annotations

import pytest

from cdp_ray_sinks.files.rotation_policy import RotationPolicy

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("last_write_ms", "now_ms", "is_due"),
    [
        (HOUR_MS - 1, HOUR_MS + 59_999, False),
        (HOUR_MS - 1, HOUR_MS + 60_000, True),
        (HOUR_MS + 30_000, HOUR_MS + 60_000, False),
        (HOUR_MS + 30_000, HOUR_MS + 90_000, True),
        (0, 299_999, False),
        (0, 300_000, True),
        (5 * HOUR_MS, 5 * HOUR_MS + 59_999, False),
        (5 * HOUR_MS, 5 * HOUR_MS + 60_000, True),
    ],
)
def test_a_segment_ends_after_its_hour_or_when_idle(
    last_write_ms: int, now_ms: int, *, is_due: bool
) -> None:
    """Lateness counts from the hour's end or a later write, idleness from the last write."""
    policy = RotationPolicy(lateness_s=60, idle_s=300)
    assert policy.is_due(HOUR_MS, last_write_ms, now_ms) is is_due


def test_an_empty_segment_takes_any_batch() -> None:
    """A batch larger than the limit still has a place: a segment of its own."""
    policy = RotationPolicy(segment_bytes_max=100)
    assert policy.fits(0, 1000)
    assert policy.fits(60, 40)
    assert not policy.fits(60, 41)
