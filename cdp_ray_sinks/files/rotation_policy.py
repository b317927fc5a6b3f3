"""When a segment is sealed and the next one begun: a pure function of a few values."""

from __future__ import annotations

from dataclasses import dataclass

from cdp_ray_sinks.files.partition import Partition, Rotation, partition_of


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """What ends a segment: its hour or day, its bytes, or that nothing came.

    `lateness_s` is how long after the end of its hour (day) a segment stays open for
    batches that were received in it but arrive late.
    """

    interval: Rotation = "hourly"
    segment_bytes_max: int = 1 << 30
    lateness_s: int = 60
    idle_s: int = 300

    def partition_of(self, workspace_id: int, received_at_ms: int) -> Partition:
        """The partition of a batch under this policy; raises TerminalError."""
        return partition_of(workspace_id, received_at_ms, self.interval)

    def is_due(self, ends_at_ms: int, last_write_ms: int, now_ms: int) -> bool:
        """Whether a segment of a partition that ends then is to be sealed by now.

        A partition whose end had passed at the last write (late data) waits `lateness_s`
        from that write, so that a slow stream of late batches does not make a segment each.
        """
        late_until_ms = max(ends_at_ms, last_write_ms) + 1000 * self.lateness_s
        idle_until_ms = last_write_ms + 1000 * self.idle_s
        return now_ms >= idle_until_ms or (now_ms >= ends_at_ms and now_ms >= late_until_ms)

    def fits(self, segment_bytes: int, more_bytes: int) -> bool:
        """Whether a segment takes that many more bytes; an empty one takes any."""
        return segment_bytes == 0 or segment_bytes + more_bytes <= self.segment_bytes_max
