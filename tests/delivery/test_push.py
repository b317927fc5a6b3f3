"""What one call carries."""

from __future__ import annotations

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.delivery.push import GROUP_SHARED_MAX, fitting


def batch(payload: object, record_bytes: int = 100) -> tuple[BatchHeader, object]:
    """A header and what stands for its object."""
    return BatchHeader(b"p" * 16, 1, 0, 1, 2, 1, "s", 0, 1, 1, record_bytes, 0), payload


def test_batches_of_an_object_each_are_bounded_by_their_number() -> None:
    """And by their bytes; one goes whatever it weighs."""
    waiting = [batch(object()) for _ in range(10)]
    assert fitting(waiting, 4, 10_000) == (4, 400)
    assert fitting(waiting, 32, 350) == (3, 300)
    assert fitting(waiting, 32, 1) == (1, 100)
    assert fitting([], 32, 1) == (0, 0)


def test_batches_that_share_an_object_count_as_one() -> None:
    """What a call costs are its references."""
    packs = [object() for _ in range(5)]
    waiting = [batch(pack) for pack in packs for _ in range(50)]
    assert fitting(waiting, 4, 10**9) == (200, 20_000)
    assert fitting(waiting, 4, 10_000) == (100, 10_000)
    assert fitting(waiting, 1, 10**9) == (50, 5_000)


def test_a_call_has_a_largest_number_of_batches_all_the_same() -> None:
    """However small they are."""
    waiting = [batch(None, 1) for _ in range(2 * GROUP_SHARED_MAX)]
    assert fitting(waiting, 32, 10**9) == (GROUP_SHARED_MAX, GROUP_SHARED_MAX)
