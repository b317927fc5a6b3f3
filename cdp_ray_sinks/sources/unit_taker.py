"""Units of ack mode into batches: one each, under the id that its sender gave it."""

from __future__ import annotations

from typing import Final

import xxhash

from cdp_ray_sinks.batch.batch import BatchId, Bytes
from cdp_ray_sinks.batch.builder import BatchBuilder
from cdp_ray_sinks.batch.enums import LENGTH_BYTES, METADATA_BYTES
from cdp_ray_sinks.batch.message_run import MessageRun
from cdp_ray_sinks.clock import Clock
from cdp_ray_sinks.errors import BatchConflictError
from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.base import TakesNamed
from cdp_ray_sinks.sources.connection import Connection
from cdp_ray_sinks.writers.ack_units import (
    BAD_VERSION,
    CONFLICT,
    HEAD_BYTES,
    MALFORMED,
    NOT_ALLOWED,
    SEQUENCE_MAX,
    UNIT_BYTES_MAX,
    UNKNOWN_KEY,
    VERSION,
    Preamble,
    UnitHead,
    decode_preamble,
    decode_unit_head,
)

FRAME_BYTES_MIN: Final = LENGTH_BYTES
FUTURE_MS_MAX: Final = 24 * 3_600_000
"""A unit that was received later than this from now has a wrong clock behind it."""
_BUILDER_BYTES_KEPT_MAX: Final = 8 * 1024 * 1024


class Refusal(Exception):  # noqa: N818 - it is an answer
    """Why a connection ends: a code of `writers.ack_units`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class UnitTaker:
    """Takes the units of all connections of one source. Used by one thread."""

    def __init__(
        self, taker: TakesNamed, source_id: str, clock: Clock, keys: ApiKeys, frame_bytes_max: int
    ) -> None:
        self._taker = taker
        self._source_id = source_id
        self._clock = clock
        self._keys = keys
        self._frame_bytes_max = frame_bytes_max
        self._run = MessageRun(8192)
        self._builder: BatchBuilder | None = None
        self._builder_bytes = self._builder_count = 0
        self.units = self.messages = self.events = 0

    def take(self, buffer: Bytes, end: int, connection: Connection) -> int:
        """Take every whole unit of buffer[:end]; where the rest begins.

        Blocks while the taker does. Raises Refusal for what is not as it should be.
        """
        position = 0
        while end - position >= HEAD_BYTES:
            raw = buffer[position : position + HEAD_BYTES].tobytes()
            preamble = decode_preamble(raw)
            if preamble is not None:
                self._begin(preamble, connection)
                position += HEAD_BYTES
                continue
            head = self._checked(decode_unit_head(raw), connection)
            following = position + HEAD_BYTES + head.frame_bytes
            if following > end:
                break
            self._take_unit(head, buffer[position + HEAD_BYTES : following], connection)
            position = following
        return position

    def _begin(self, preamble: Preamble, connection: Connection) -> None:
        if preamble.version != VERSION:
            raise Refusal(BAD_VERSION)
        if not connection.is_trusted:
            raise Refusal(NOT_ALLOWED)
        assert connection.acked is not None
        connection.acked.preamble = preamble

    def _checked(self, head: UnitHead, connection: Connection) -> UnitHead:
        """A head whose claims can be true; before anything is kept for its frames."""
        assert connection.acked is not None
        if (
            connection.acked.preamble is None
            or head.sequence > SEQUENCE_MAX
            or head.low > head.sequence
            or head.frame_bytes > UNIT_BYTES_MAX
            or not 0 < head.frame_count * FRAME_BYTES_MIN <= head.frame_bytes
            or head.received_at_ms > self._clock.now_ms() + FUTURE_MS_MAX
        ):
            raise Refusal(MALFORMED)
        return head

    def _take_unit(self, head: UnitHead, frames: Bytes, connection: Connection) -> None:
        acked = connection.acked
        assert acked is not None
        assert acked.preamble is not None
        builder = self._fill(head, frames, connection)
        batch = builder.build()
        origin = acked.preamble.sender + batch.header.workspace_id.to_bytes(4, "big")
        # Who has another workspace's key can't claim this one's units: they are of another id.
        producer = xxhash.xxh3_128_digest(origin)
        batch_id = BatchId(producer, acked.preamble.epoch, head.sequence)
        try:
            acked.unsettled.append(self._taker.submit_as(batch, batch_id, head.low))
        except BatchConflictError:
            raise Refusal(CONFLICT) from None
        self.units += 1
        self.messages += batch.header.message_count
        self.events += batch.header.event_count

    def _fill(self, head: UnitHead, frames: Bytes, connection: Connection) -> BatchBuilder:
        """All of the unit's messages in one builder: of one workspace and schema, all valid."""
        run, position, builder, count = self._run, 0, None, 0
        while position < len(frames):
            position, _ = run.index(frames, position, len(frames), self._frame_bytes_max)
            if not run.count:
                raise Refusal(MALFORMED)
            run.check(self._keys.key_table)
            if run.unknown_key_count:
                raise Refusal(UNKNOWN_KEY)
            groups = list(run.groups())
            if run.ok_count != run.count or len(groups) != 1:
                raise Refusal(MALFORMED)
            key = groups[0].workspace_id, groups[0].schema_type
            if builder is None:
                builder = self._builder_for(head, *key)
            count += run.count
            if (builder.workspace_id, builder.schema_type) != key or count > head.frame_count:
                raise Refusal(MALFORMED)
            builder.append(
                run, groups[0].selected, 0, received_at_ms=head.received_at_ms, monotonic_ms=0,
                peer_ip=connection.peer_ip, trust_source_ip=True,
            )  # fmt: skip
        if builder is None or count != head.frame_count:
            raise Refusal(MALFORMED)
        return builder

    def _builder_for(self, head: UnitHead, workspace_id: int, schema_type: int) -> BatchBuilder:
        """An empty one with room for the unit; kept for the next, unless it is very large."""
        needed = head.frame_bytes + METADATA_BYTES * head.frame_count
        builder = self._builder
        is_too_small = needed > self._builder_bytes or head.frame_count > self._builder_count
        if builder is None or is_too_small or self._builder_bytes > _BUILDER_BYTES_KEPT_MAX:
            self._builder_bytes = max(needed, 64 * 1024)
            self._builder_count = max(head.frame_count, 1024)
            builder = self._builder = BatchBuilder(
                workspace_id, schema_type, self._source_id,
                self._builder_bytes, self._builder_count + 1,
            )  # fmt: skip
        builder.reopen(workspace_id, schema_type)
        return builder
