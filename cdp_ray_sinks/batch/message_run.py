"""A run of messages inside one buffer: where each is, and what is known about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdp_ray_sinks.batch.batch import Bytes
from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.envelope import (
    TALLY_COLUMNS,
    TALLY_EVENT_COUNT,
    TALLY_IS_ONE_GROUP,
    TALLY_MALFORMED,
    TALLY_OK,
    TALLY_UNDECODABLE,
    TALLY_UNKNOWN_KEY,
    check_envelopes,
)
from cdp_ray_sinks.batch.kernels.facts import (
    FACT_COLUMNS,
    FACT_SCHEMA_TYPE,
    FACT_STATUS,
    FACT_WORKSPACE,
    MESSAGE_OK,
)
from cdp_ray_sinks.batch.kernels.frames import index_frames
from cdp_ray_sinks.batch.kernels.key_table import key_table_of

Places = NDArray[np.int64]

_NO_KEYS = key_table_of(b"", [])


@dataclass(frozen=True, slots=True)
class MessageGroup:
    """The places in a run of the messages of one workspace and schema."""

    workspace_id: int
    schema_type: int
    selected: Places


class MessageRun:
    """Arrays for up to `message_count_max` messages, filled again and again.

    After `index`: `count`, `starts` and `lengths` (bytes, into `buffer`). After `check`:
    `facts` and the counts of messages that are ok, malformed, of an unknown key, and ok
    but undecodable.
    """

    def __init__(self, message_count_max: int = 8192) -> None:
        self.starts: Places = np.zeros(message_count_max, np.int64)
        self.lengths: Places = np.zeros(message_count_max, np.int64)
        self.facts = np.zeros((message_count_max, FACT_COLUMNS), np.int64)
        self.buffer: Bytes = np.zeros(0, np.uint8)
        self.count = 0
        self._tally = np.zeros(TALLY_COLUMNS, np.int64)
        self._every = np.arange(message_count_max, dtype=np.int64)

    @property
    def ok_count(self) -> int:
        """Messages that can be kept."""
        return int(self._tally[TALLY_OK])

    @property
    def malformed_count(self) -> int:
        """Messages without a valid envelope."""
        return int(self._tally[TALLY_MALFORMED])

    @property
    def unknown_key_count(self) -> int:
        """Messages whose key is not in the table."""
        return int(self._tally[TALLY_UNKNOWN_KEY])

    @property
    def undecodable_count(self) -> int:
        """Messages that are kept although their data does not decode."""
        return int(self._tally[TALLY_UNDECODABLE])

    @property
    def event_count(self) -> int:
        """Events in the messages that are ok."""
        return int(self._tally[TALLY_EVENT_COUNT])

    def index(self, buffer: Bytes, start: int, end: int, frame_bytes_max: int) -> tuple[int, int]:
        """Find the frames in buffer[start:end]; (next position, INDEX_* status)."""
        self.buffer = readonly(buffer)
        count, position, status = index_frames(
            self.buffer, start, end, frame_bytes_max, self.starts, self.lengths
        )
        self.count = int(count)
        return int(position), int(status)

    def check(self, key_table: NDArray[np.uint64] = _NO_KEYS, workspace_id: int = 0) -> None:
        """Check the envelopes; the messages are `workspace_id`'s, or by key if that is 0."""
        check_envelopes(
            self.buffer,
            self.starts,
            self.lengths,
            self.count,
            key_table,
            workspace_id,
            self.facts,
            self._tally,
        )

    def groups(self) -> Iterator[MessageGroup]:
        """The messages that are ok, by workspace and schema, each group in its order."""
        if self.ok_count == 0:
            return
        if self._tally[TALLY_IS_ONE_GROUP]:
            selected = self._every[: self.count]
            yield self._group(selected)
            return
        facts = self.facts[: self.count]
        ok = np.flatnonzero(facts[:, FACT_STATUS] == MESSAGE_OK)
        codes = facts[ok, FACT_WORKSPACE] * 256 + facts[ok, FACT_SCHEMA_TYPE]
        order = np.argsort(codes, kind="stable")
        cuts = np.flatnonzero(np.diff(codes[order])) + 1
        for selected in np.split(ok[order], cuts):
            yield self._group(selected)

    def _group(self, selected: Places) -> MessageGroup:
        facts = self.facts[selected[0]]
        return MessageGroup(int(facts[FACT_WORKSPACE]), int(facts[FACT_SCHEMA_TYPE]), selected)
