"""The synthetic source at work: invented events, as fast as a kernel writes them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import xxhash

from cdp_ray_sinks.batch.batch import NO_PRODUCER, Batch, BatchHeader, Bytes, Offsets
from cdp_ray_sinks.batch.builder import LOOPBACK_IP
from cdp_ray_sinks.batch.enums import API_KEY_BYTES, EventType, SchemaType
from cdp_ray_sinks.batch.kernels.synthetic import (
    ENTRY_BYTES_MAX,
    KIND_CONTEXT,
    KIND_IDENTIFY,
    KIND_TRACK,
    Job,
    write_messages,
)
from cdp_ray_sinks.sources.base import BatchTaker, SourceContext
from cdp_ray_sinks.sources.synthetic import SyntheticConfig
from cdp_ray_sinks.sources.synthetic_content import (
    EVENT_NAMES,
    LOG_LEVELS,
    LOG_SERVICES,
    LOG_SOURCES,
    TEMPLATES,
    WORD_LISTS,
)
from cdp_ray_sinks.sources.synthetic_templates import envelope_bytes, make_templates

_STEP_US: Final = 100
"""Between the times of one batch's events."""
_PACKED_BATCH_BYTES_MAX: Final = 256 * 1024
_PACK_BYTES_MAX: Final = 4 * 1024 * 1024
_PACK_BATCHES_MAX: Final = 256
_TURNS_A_SECOND: Final = 50
"""How finely a rate is kept."""
_EVENT_BYTES: Final = {"tell": 250, "small": 270, "single": 370}
"""What a buffer has room for at first; it grows to what is needed."""
_EVENT_TYPES: Final = {
    KIND_TRACK: EventType.TRACK,
    KIND_IDENTIFY: EventType.IDENTIFY,
    KIND_CONTEXT: EventType.CONTEXT,
}


class Part(NamedTuple):
    """What one batch is made of: `entry_count` entries from `first_number` on."""

    workspace_id: int
    is_log: bool
    first_number: int
    entry_count: int


class MessageWriter:
    """Writes messages of invented entries into a buffer that it uses again and again."""

    def __init__(self, config: SyntheticConfig, api_key: bytes, is_frame: bool) -> None:
        self._config = config
        self._is_frame = is_frame
        names = [*EVENT_NAMES, *(f"Event {n}" for n in range(len(EVENT_NAMES), 1000))]
        self._templates = make_templates(
            TEMPLATES,
            WORD_LISTS,
            (names[: config.name_count], LOG_SOURCES, LOG_SERVICES),
            LOG_LEVELS,
            config.seed,
            config.device_count,
        )
        self._envelopes = [envelope_bytes(t, api_key) for t in (SchemaType.EVENT, SchemaType.LOG)]
        self._out: Bytes = np.empty(0, np.uint8)
        self._offsets: Offsets = np.zeros(1, np.uint64)

    def write(self, part: Part, now_ms: int) -> tuple[Bytes, Offsets, int]:
        """Bytes, offsets and event-type mask of the part, good until the next call."""
        config = self._config
        message_count = -(-part.entry_count // config.events_per_message)
        if len(self._offsets) <= message_count:
            self._offsets = np.zeros(message_count + 1, np.uint64)
        wanted = part.entry_count * _EVENT_BYTES[config.shape] + ENTRY_BYTES_MAX + 512
        if len(self._out) < wanted:
            self._out = np.empty(wanted, np.uint8)
        head = np.frombuffer(now_ms.to_bytes(8, "big") + LOOPBACK_IP, np.uint8)
        job = self._job(part, now_ms)
        envelope = self._envelopes[part.is_log]
        while True:
            end, kinds = write_messages(
                job, head, envelope, self._templates, self._out, self._offsets
            )
            if end >= 0:
                break
            self._out = np.empty(2 * len(self._out), np.uint8)
        types = sum(1 << kind for place, kind in _EVENT_TYPES.items() if kinds >> place & 1)
        return self._out[:end], self._offsets[: message_count + 1], types

    def _job(self, part: Part, now_ms: int) -> Job:
        config = self._config
        return Job(
            first_number=part.first_number,
            entry_count=part.entry_count,
            events_per_message=config.events_per_message,
            seed=np.uint64(config.seed),
            identify_limit=int(config.identify_share * 2**32),
            context_limit=int((config.identify_share + config.context_share) * 2**32),
            is_log=part.is_log,
            is_frame=self._is_frame,
            device_count=config.device_count,
            time_ms=now_ms,
            step_us=_STEP_US,
        )

    def batch(self, part: Part, source_id: str, now_ms: int) -> Batch:
        """The part as a batch without an id; its buffers are good until the next call."""
        records, offsets, event_types = self.write(part, now_ms)
        header = BatchHeader(
            producer=NO_PRODUCER,
            epoch=0,
            sequence=0,
            schema_type=SchemaType.LOG if part.is_log else SchemaType.EVENT,
            event_types=event_types,
            workspace_id=part.workspace_id,
            source_id=source_id,
            received_at_ms=now_ms,
            message_count=len(offsets) - 1,
            event_count=part.entry_count,
            record_bytes=len(records),
            checksum=xxhash.xxh3_64_intdigest(records.data),
            time_min_ms=now_ms - (part.entry_count - 1) * _STEP_US // 1000,
            time_max_ms=now_ms,
        )
        return Batch(header, records, offsets)


def parts_of(config: SyntheticConfig) -> Iterator[Part]:
    """All batches of a source in their order, workspace after workspace, without an end
    if the config has none."""
    batch_events = min(
        config.batch_events, max(config.batch_bytes_max // _EVENT_BYTES[config.shape], 1)
    )
    if config.events is not None:
        batch_events = min(batch_events, max(-(-config.events // config.workspaces), 1))
    if config.rate_events_per_s is not None:
        turn_events = int(config.rate_events_per_s / _TURNS_A_SECOND)
        batch_events = min(batch_events, max(turn_events, config.events_per_message))
    done = 0
    for turn in itertools.count():
        left = batch_events if config.events is None else config.events - done
        if left <= 0:
            return
        count = min(batch_events, left)
        workspace_id = 1 + turn % config.workspaces
        first = config.start_number + done
        # Rounded over the run so far, so that small batches keep to the share too.
        log_count = int((done + count) * config.log_share) - int(done * config.log_share)
        if log_count:
            yield Part(workspace_id, True, first, log_count)
        if count > log_count:
            yield Part(workspace_id, False, first + log_count, count - log_count)
        done += count


class SyntheticSource:
    """Produces what its config says, then ends."""

    def __init__(self, config: SyntheticConfig, context: SourceContext) -> None:
        self._config = config
        self._clock = context.clock
        self._name = context.name
        self._events = self._messages = self._bytes = self._batches = 0
        self._pack: list[Batch] = []
        self._pack_bytes = 0

    def counters(self) -> dict[str, int]:
        """What was handed over so far; there are no errors to make."""
        return {
            "events": self._events,
            "messages": self._messages,
            "bytes": self._bytes,
            "batches": self._batches,
            "errors": 0,
        }

    def progress(self) -> tuple[int, int | None]:
        """Events handed over, and how many there will be."""
        return self._events, self._config.events

    def run(self, taker: BatchTaker, stop: threading.Event) -> None:
        """Produce until done or stopped; on return all that was made is handed over."""
        writer = MessageWriter(self._config, bytes(API_KEY_BYTES), is_frame=False)
        started_ms = self._clock.monotonic_ms()
        made = 0
        for part in parts_of(self._config):
            if stop.is_set() or self._waits_for_stop(made, started_ms, stop, taker):
                break
            self._take(writer.batch(part, self._name, self._clock.now_ms()), taker)
            made += part.entry_count
        self._hand_over(taker)

    def _waits_for_stop(
        self, made: int, started_ms: int, stop: threading.Event, taker: BatchTaker
    ) -> bool:
        """Wait until the rate allows another batch; True if stopped meanwhile."""
        rate = self._config.rate_events_per_s
        if rate is None:
            return False
        early_ms = started_ms + made * 1000 / rate - self._clock.monotonic_ms()
        if early_ms <= 0:
            return False
        self._hand_over(taker)
        return stop.wait(early_ms / 1000)

    def _take(self, batch: Batch, taker: BatchTaker) -> None:
        """Hand a large batch over, keep a small one for a pack."""
        if len(batch.records) > _PACKED_BATCH_BYTES_MAX:
            self._hand_over(taker)
            taker.submit(batch)
            self._count(batch)
            return
        self._pack.append(Batch(batch.header, batch.records.copy(), batch.offsets.copy()))
        self._pack_bytes += len(batch.records)
        if self._pack_bytes >= _PACK_BYTES_MAX or len(self._pack) >= _PACK_BATCHES_MAX:
            self._hand_over(taker)

    def _hand_over(self, taker: BatchTaker) -> None:
        pack, self._pack, self._pack_bytes = self._pack, [], 0
        if len(pack) == 1:
            taker.submit(pack[0])
        elif pack:
            taker.submit_packed(pack)
        for batch in pack:
            self._count(batch)

    def _count(self, batch: Batch) -> None:
        self._events += batch.header.event_count
        self._messages += batch.header.message_count
        self._bytes += batch.header.record_bytes
        self._batches += 1


def frames_of(config: SyntheticConfig, api_key: bytes, now_ms: int) -> Iterator[memoryview]:
    """See `synthetic.synthetic_frames`."""
    if config.events is None:
        raise ValueError("frames of an endless source can't be listed")
    if len(api_key) != API_KEY_BYTES:
        raise ValueError(f"an api key has {API_KEY_BYTES} bytes, not {len(api_key)}")
    writer = MessageWriter(config, api_key, is_frame=True)
    return (writer.write(part, now_ms)[0].data for part in parts_of(config))
