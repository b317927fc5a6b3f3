"""The bounds of one producer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProducerLimits:
    """Bounds of one producer.

    While a call is under way another one goes only when `group_batches_min` batches wait, so
    that under load the calls are few and full; alone, a batch goes at once. Above
    `calls_in_flight_max` one goes only with `large_call_bytes`: what a sink takes long to settle,
    until a file is full perhaps, must not keep the next from coming.
    """

    window_bytes: int = 256 * 1024 * 1024
    window_batches: int = 4096
    group_batches_max: int = 32
    group_batches_min: int = 8
    group_bytes_max: int = 256 * 1024 * 1024
    inline_bytes_max: int = 64 * 1024
    calls_in_flight_max: int = 4
    large_call_bytes: int = 32 * 1024 * 1024
    large_calls_in_flight_max: int = 16
