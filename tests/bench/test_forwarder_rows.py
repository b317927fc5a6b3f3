"""The forwarder's rows are made of what really went through a socket."""

from __future__ import annotations

from pathlib import Path

from cdp_ray_sinks.bench.forwarder_rows import _ack_row, _lane_row
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.bench.settings import Settings


def test_lane_and_ack_mode_are_measured_beside_the_same_bytes(tmp_path: Path) -> None:
    """Both have a rate, a limit and a ratio; nothing is asserted of how fast they are."""
    settings = Settings(20_000, 2, "tell", tmp_path, lambda text: None)
    batches = synthetic_batches(20_000, "tell", 5_000)
    lane = _lane_row(batches, "lane_500", settings)
    acked = _ack_row(batches, settings)
    assert (lane.sink, lane.variant, lane.limit) == ("forwarder", "lane_500", "sendall")
    assert (acked.variant, acked.limit) == ("ack", "no ack mode")
    for row in (lane, acked):
        assert row.events == row.read_back == 20_000
        assert row.ratio is not None
        assert row.ratio > 0
