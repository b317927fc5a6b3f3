"""The clickhouse sink: events and log entries as rows of six tables, inserted in generations.

A generation is what goes out together: blocks of rows of all tables. It is synced to the state
directory before the first insert and forgotten once all are answered and the ledger is synced,
so that each row lands once, whenever the process is killed; see `files/generation_store.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, SecretStr, field_validator

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.errors import ConfigError, RefusedMessagesError, TerminalError
from cdp_ray_sinks.files.generation_file import WHOLE_MESSAGE, Generation, Refusal
from cdp_ray_sinks.files.generation_store import GenerationStore
from cdp_ray_sinks.files.landed import Landed, Wanted
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.sinks.base import SinkConfig, SinkContext
from cdp_ray_sinks.sinks.clickhouse_blocks import BlockMaker, Filling
from cdp_ray_sinks.sinks.clickhouse_check import check_tables, create_tables
from cdp_ray_sinks.sinks.clickhouse_client import (
    EMBEDDED,
    Address,
    ClickHouseClient,
    check_url,
)
from cdp_ray_sinks.sinks.clickhouse_count import count_landed, counted_rows
from cdp_ray_sinks.sinks.clickhouse_errors import ClickHouseError
from cdp_ray_sinks.sinks.clickhouse_inserts import Inserter
from cdp_ray_sinks.sinks.clickhouse_line import InsertLine
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker

BUSY_WAIT_MS: Final = 20
"""How often the lane looks what has landed, while inserts are under way."""


class ClickHouseConfig(SinkConfig):
    """Which ClickHouse, and how rows are put together.

    `url` is `http(s)://host:port[/database]`, or `chdb:///directory` for the engine inside
    the process. An insert has up to `rows_per_insert` rows of batches of `insert_bytes_max`;
    each table gets `inserts_at_once`.
    Rows wait `linger_ms` for more, while inserts are under way `flush_age_ms_max`. Without
    `retry_attempts` what the server can't take waits; with it the messages become dead
    letters after so many. `all_events` puts GROUP, ALIAS and ENRICH events into events_v1.
    `settings` go with each insert. `tables_are_shared`: other software writes there too, so
    more rows than this sink's are no difference to an audit.
    """

    reads_bytes: ClassVar[bool] = True
    schemas: ClassVar[frozenset[int]] = frozenset({SchemaType.EVENT, SchemaType.LOG})

    type: Literal["clickhouse"] = "clickhouse"
    on_full: Literal["block", "spool", "drop"] = "spool"
    url: str = "http://localhost:8123"
    database: str = Field(default="cdp", min_length=1)
    username: str = "default"
    password: SecretStr = SecretStr("")
    verify: bool = True
    ca_cert: Path | None = None
    create_tables: bool = False
    all_events: bool = False
    tables_are_shared: bool = False
    compression: Literal["none", "lz4"] = "lz4"
    rows_per_insert: int = Field(default=100_000, ge=1, le=1_000_000)
    insert_bytes_max: int = Field(default=32 * 1024 * 1024, ge=1, le=1 << 28)
    inserts_at_once: int = Field(default=2, ge=1, le=16)
    linger_ms: int = Field(default=200, ge=0)
    flush_age_ms_max: int = Field(default=5_000, ge=0)
    retry_attempts: int | None = Field(default=None, ge=1)
    connect_timeout_s: int = Field(default=10, ge=1)
    insert_timeout_s: int = Field(default=60, ge=1)
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("url")
    @classmethod
    def _names_a_place(cls, url: str) -> str:
        if "${" in url:
            return url
        check_url(url)
        if url.startswith(EMBEDDED):
            return EMBEDDED + str(Path(url.removeprefix(EMBEDDED)).expanduser().absolute())
        return url.rstrip("/")

    def warnings(self) -> list[str]:
        """What is told by `validate`."""
        password = self.password.get_secret_value()
        found = []
        if password and self.url.startswith("http://"):
            found.append(f"url = {self.url!r}: the password goes over the network in clear")
        if self.url.startswith("https://") and not self.verify:
            found.append("verify = false: whoever is on the way may say that it is the server")
        if self.rows_per_insert < 10_000:
            found.append(
                f"rows_per_insert = {self.rows_per_insert}: many small inserts are what "
                "ClickHouse is slowest at"
            )
        return found

    def place(self) -> str:
        """The URL, which has no password in it."""
        return self.url

    def address(self) -> Address:
        """The same, as the client takes it."""
        url, database = self.url, self.database
        if not url.startswith(EMBEDDED) and url.count("/") > 2:
            url, _, database = url.rpartition("/")
        return Address(
            url,
            database,
            self.username,
            self.password.get_secret_value(),
            self.verify,
            None if self.ca_cert is None else str(self.ca_cert),
            self.connect_timeout_s,
            self.insert_timeout_s,
        )

    def count_landed(self, wanted: Wanted, state_dir: Path) -> Landed | None:
        """What it was told has landed, and the rows of the tables."""
        return count_landed(
            self.address(), state_dir, wanted, tables_are_shared=self.tables_are_shared
        )

    def build(self, context: SinkContext) -> ClickHouseSink:
        """The sink; nothing is opened yet. Raises ConfigError without a state directory."""
        return ClickHouseSink(self, context)


class ClickHouseSink:
    """Writes rows; durable means that ClickHouse has acknowledged them, and that it is noted."""

    def __init__(self, config: ClickHouseConfig, context: SinkContext) -> None:
        if context.state_dir is None:
            raise ConfigError(f"sink {context.name!r} needs a state directory")
        self._config = config
        self._clock = context.clock
        self._client = ClickHouseClient(config.address(), config.settings)
        self._store = GenerationStore(context.state_dir / context.name, context.clock)
        self._filling = Filling()
        self._landed: list[Generation] = []
        self._told: list[Generation] = []
        self._committed: list[BatchId] = []
        self._line: InsertLine | None = None
        self._inserter: Inserter | None = None
        self._blocks: BlockMaker | None = None
        self._counters: Counter[str] = Counter()
        self.notes: Sequence[str] = ()
        """What somebody should know of the tables, a sentence each; known once it is open."""

    # -- life -------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, look at the tables, finish what an earlier process left.

        Raises ConfigError that says what does not fit, TransientError while the server or the
        state directory is not to be had.
        """
        try:
            self._open()
        except ClickHouseError as error:
            self._let_go()
            raise error.for_opening(self._config.url) from None
        except BaseException:
            self._let_go()
            raise

    def _open(self) -> None:
        self._client.open()
        if self._config.create_tables:
            create_tables(self._client)
        shapes = check_tables(self._client)
        self.notes = shapes.notes
        self._blocks = BlockMaker(
            RowMaker(all_events=self._config.all_events),
            rows_per_insert=self._config.rows_per_insert,
            compression=self._config.compression,
            time_zone=self._client.time_zone,
            text_ids=dict(shapes.text_ids),
        )
        unfinished = self._store.open()
        self._inserter = Inserter(
            self._client, self._store, self._blocks, self._config.retry_attempts,
            self._config.inserts_at_once,
        )  # fmt: skip
        for generation in unfinished:
            self._inserter.insert(generation)
            self._store.finish([generation], refusals_are_kept=False)
        if self._store.landed.known.before is None:
            self._store.note_before(counted_rows(self._client))
        self._line = InsertLine(self._make, self._inserter.insert, self._config.inserts_at_once)
        self._line.start()

    def close(self) -> None:
        """Flush and let go of everything. Safe to call twice.

        Raises what `flush` raises; what is then not inserted, the next process finishes.
        """
        try:
            if self._line is not None:
                self.flush()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._inserter is not None:
            self._inserter.close()
            self._inserter = None
        self._store.close()
        self._client.close()

    # -- data -------------------------------------------------------------------------

    def ledger_for(self, workspace_id: int) -> Ledger:
        """One ledger for all workspaces."""
        return self._store.ledger

    def write(self, batch: Batch) -> None:
        """Accept a batch; a full generation is made and inserted in the background.

        Raises TerminalError if its offsets don't fit its records.
        """
        if not batch.offsets_fit():
            raise TerminalError(f"batch {batch.header.batch_id}: its offsets do not fit its bytes")
        header = batch.header
        low = self._store.ledger.low_of(header.producer, header.epoch)
        refused = self._store.refused.get(header.batch_id)
        if refused is not None:
            known = Filling(refused=[Refusal(0, *one) for one in refused])
            self._submit()  # batches stay in their order
            self._filling = known
        self._filling.add(batch, low, self._clock.monotonic_ms())
        if (
            refused is not None
            or self._filling.event_count >= self._config.rows_per_insert
            or self._filling.record_bytes >= self._config.insert_bytes_max
        ):
            self._submit()

    def flush(self) -> None:
        """On return all accepted rows are acknowledged by ClickHouse, and the ledger is synced.

        Raises TransientError when some have to wait; RefusedMessagesError when all others are
        there, until `refusals_kept`.
        """
        line = self._opened_line()
        self._submit()
        done, error = line.settle()
        self._landed += done
        self._finish([one for one in self._landed if not one.refusals])
        if error is not None:
            raise error
        self._told = list(self._landed)
        if self._told:
            raise RefusedMessagesError(tuple(_refusals_of(self._told)))
        self._committed.clear()

    def refusals_kept(self) -> None:
        """What was refused is kept elsewhere: those batches are durable too."""
        self._finish(self._told)
        self._told = []

    def committed(self) -> Sequence[BatchId]:
        """What has landed by now; what has waited long enough is handed in.

        Raises TransientError if the ledger can't be written.
        """
        line = self._opened_line()
        age_ms = self._clock.monotonic_ms() - self._filling.since_ms
        if age_ms >= (self._config.flush_age_ms_max if line.is_busy else self._config.linger_ms):
            self._submit()
        self._landed += line.take_done()
        self._finish([one for one in self._landed if not one.refusals])
        committed, self._committed = self._committed, []
        return committed

    def due_in_ms(self, now_ms: int) -> int:
        """Puts a flush off while all goes well: rows are inserted and acknowledged without it."""
        line = self._opened_line()
        if line.has_failed or self._landed:
            return 0
        if line.is_busy:
            return BUSY_WAIT_MS
        if not self._filling.batches:
            return 0
        age_ms = self._clock.monotonic_ms() - self._filling.since_ms
        return max(1, self._config.linger_ms - age_ms)

    def tick(self, now_ms: int) -> None:
        """Nothing depends on time but flushes."""

    def counters(self) -> dict[str, int]:
        """Rows per table, inserts and what went wrong with them, events that make no row."""
        inserted = Counter() if self._inserter is None else self._inserter.counters
        return dict(inserted + self._counters)

    # -- inside -----------------------------------------------------------------------

    def _opened_line(self) -> InsertLine:
        if self._line is None:
            raise TerminalError("the sink is not open")
        return self._line

    def _finish(self, generations: Sequence[Generation]) -> None:
        if generations:
            self._store.finish(generations)
            gone = {one.number for one in generations}
            self._landed = [one for one in self._landed if one.number not in gone]
            self._committed += [batch_id for one in generations for batch_id in one.batch_ids()]

    def _submit(self) -> None:
        if self._filling.batches:
            self._opened_line().submit(self._filling)
            self._filling = Filling()

    def _make(self, filling: Filling) -> Generation:
        """In the line's thread: the generation, synced and ready to be sent."""
        assert self._blocks is not None
        made, counts = self._blocks.generation(
            filling, self._store.next_number(), self._store.identity
        )
        if made.blocks:
            self._store.add(made)
        self._counters.update(counts.named())
        return made


def _refusals_of(generations: Sequence[Generation]) -> list[Any]:
    return [
        (
            (row["producer"].tobytes(), int(row["epoch"]), int(row["sequence"])),
            refusal.message,
            None if refusal.entry == WHOLE_MESSAGE else refusal.entry,
            refusal.reason,
        )
        for generation in generations
        for refusal in generation.refusals
        for row in [generation.entries[refusal.batch]]
    ]
