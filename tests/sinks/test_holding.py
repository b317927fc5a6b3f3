"""When a sink that holds batches back publishes them."""

from __future__ import annotations

from cdp_ray_sinks.sinks.holding import STALLED_MS, HoldPolicy

MIB = 1024 * 1024


def policy(age_ms_max: int = 10_000) -> HoldPolicy:
    return HoldPolicy(64 * MIB, 1000, age_ms_max)


def test_nothing_held_is_due_at_once_and_costs_nothing() -> None:
    """A flush of nothing does nothing, so nobody waits for one."""
    assert policy().due_in_ms(0, 0, 5) == 0


def test_a_little_waits_for_its_age() -> None:
    """From the first batch on, whatever comes after it."""
    holding = policy()
    holding.note(1_000)
    holding.note(9_000)
    assert holding.due_in_ms(MIB, 2, 9_000) == 2_000
    assert holding.due_in_ms(MIB, 2, 12_000) == 0
    holding.clear()
    holding.note(20_000)
    assert holding.due_in_ms(MIB, 1, 20_000) == 10_000


def test_it_is_due_before_sources_must_wait_for_it() -> None:
    """By bytes, by batches, or when nothing comes any more although much is held."""
    holding = policy()
    holding.note(0)
    assert holding.due_in_ms(48 * MIB, 10, 1) == 0
    assert holding.due_in_ms(MIB, 750, 1) == 0
    assert holding.due_in_ms(8 * MIB, 10, 1) == STALLED_MS - 1
    assert holding.due_in_ms(8 * MIB, 10, STALLED_MS) == 0
