"""Inserting a generation: all tables at once, each block until it is settled or has to wait.

A block is landed, or refused by the server; what it refuses is halved until the rows that it
does not take stand alone. Each half is on the disk before it is sent.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa

from cdp_ray_sinks.errors import TransientError
from cdp_ray_sinks.files.generation_file import Block, BlockState, Generation
from cdp_ray_sinks.files.generation_store import GenerationStore
from cdp_ray_sinks.sinks.clickhouse_blocks import BlockMaker
from cdp_ray_sinks.sinks.clickhouse_client import ClickHouseClient
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError, Cure
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS

UNKNOWN_ATTEMPTS_MAX: Final = 8
"""An error of an unknown number is taken for one of the rows after so many attempts."""
HALVINGS_MAX: Final = 1_000
"""In one generation; what is then not settled is refused with its good rows."""
CONFIGURE_WAIT_MS: Final = 5_000
_ANY_PARTITIONS: Final = {"max_partitions_per_insert_block": 0}


class Inserter:
    """Inserts generations, `at_once` at a time, and keeps count.

    `attempts_max` None: what the server can't take now waits. Else rows are refused after so
    many attempts, whether they are there or not.
    """

    def __init__(
        self,
        client: ClickHouseClient,
        store: GenerationStore,
        blocks: BlockMaker,
        attempts_max: int | None,
        at_once: int,
    ) -> None:
        self._client = client
        self._store = store
        self._blocks = blocks
        self._attempts_max = attempts_max
        self._tables = ThreadPoolExecutor(
            at_once * len(SCHEMAS), thread_name_prefix="clickhouse-table"
        )
        self._lock = threading.Lock()
        self.counters: Counter[str] = Counter()

    def insert(self, generation: Generation) -> None:
        """On return every block is landed or refused.

        Raises TransientError with the first reason if some are not; calling it again goes on
        with those, with the same bytes.
        """
        tables = dict.fromkeys(block.table for block in generation.open_blocks)
        halvings = Counter[str]()
        if len(tables) == 1:
            errors = [self._insert_table(generation, next(iter(tables)), halvings)]
        else:
            errors = list(
                self._tables.map(
                    lambda table: self._insert_table(generation, table, halvings), tables
                )
            )
        failed = [error for error in errors if error is not None]
        if failed:
            raise max(failed, key=lambda error: error.retry_after_ms)

    def close(self) -> None:
        """End the threads. Safe to call twice."""
        self._tables.shutdown()

    def _insert_table(
        self, generation: Generation, table: str, halvings: Counter[str]
    ) -> TransientError | None:
        """The blocks of one table in their order, until one has to wait."""
        while True:
            block = next((b for b in generation.open_blocks if b.table == table), None)
            if block is None:
                return None
            try:
                self._insert_block(generation, block, halvings)
            except TransientError as error:
                return error

    def _insert_block(self, generation: Generation, block: Block, halvings: Counter[str]) -> None:
        block.attempts += 1
        try:
            self._send(block)
        except ClickHouseError as error:
            block.is_unsure |= error.is_unsure
            self._count("insert_errors", 1)
            if self._is_to_be_halved(block, error):
                self._halve(generation, block, halvings, str(error))
            elif self._attempts_max is not None and block.attempts >= self._attempts_max:
                reason = f"given up after {block.attempts} attempts: {error}"
                self._refuse(generation, block, reason)
            else:
                wait_ms = CONFIGURE_WAIT_MS if error.cure is Cure.CONFIGURE else 0
                raise TransientError(f"{block.table}: {error}", wait_ms) from None
        else:
            self._store.note_landed(generation, block)
            block.payload = b""
            self._count("inserts", 1)
            self._count(f"{block.table}_rows", block.row_count)

    def _send(self, block: Block) -> None:
        columns = SCHEMAS[block.table].names
        payload = pa.py_buffer(block.payload)
        try:
            self._client.insert(block.table, columns, payload, block.token)
        except ClickHouseError as error:
            if error.cure is not Cure.FEWER_PARTITIONS:
                raise
            # Partitioned otherwise than by month. One insert into all of them is the better way
            # if it is allowed: halves would need to be very small.
            self._client.insert(block.table, columns, payload, block.token, _ANY_PARTITIONS)

    def _is_to_be_halved(self, block: Block, error: ClickHouseError) -> bool:
        if error.cure is Cure.OTHER_ROWS:
            return True
        if error.cure is Cure.UNKNOWN:
            return block.attempts >= UNKNOWN_ATTEMPTS_MAX and not block.is_unsure
        if error.cure is Cure.FEWER_PARTITIONS:
            return True
        # Halves have tokens of their own, so the whole must surely not be there.
        return (
            error.cure is Cure.FEWER_ROWS
            and block.attempts > 1
            and block.row_count > 1
            and block.has_one_partition
            and not block.is_unsure
        )

    def _halve(
        self, generation: Generation, block: Block, halvings: Counter[str], reason: str
    ) -> None:
        if block.row_count == 1:
            self._refuse(generation, block, reason)
            return
        with self._lock:
            halvings[block.table] += 1
            is_enough = halvings.total() > HALVINGS_MAX
        if is_enough:
            many = f"one of {block.row_count} rows, not searched any further: {reason}"
            self._refuse(generation, block, many)
            return
        parts = self._blocks.halves(generation, block, self._store.identity)
        self._store.note_split(generation, block, parts)
        block.payload = b""
        self._count("halvings", 1)

    def _refuse(self, generation: Generation, block: Block, reason: str) -> None:
        self._store.note_refused(generation, block, reason)
        block.payload = b""
        assert block.state is BlockState.REFUSED
        self._count("refused_rows", block.row_count)

    def _count(self, name: str, count: int) -> None:
        with self._lock:
            self.counters[name] += count
