"""The parquet sink: tables in `{path}/{workspace}/{date}/{hour}/events.parquet`, `logs.parquet` …

Batches are durable in a journal, `{path}/.journal/`, and become files from there in the
background; see `files.journal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from cdp_ray_sinks.batch.batch import Batch, BatchId
from cdp_ray_sinks.batch.damage import DamagedMessage, damaged_messages
from cdp_ray_sinks.errors import FencedError, PartialWriteError, TerminalError, TransientError
from cdp_ray_sinks.files.direct import DirectFiles
from cdp_ray_sinks.files.file_system import FileSystem, LocalFileSystem, transient
from cdp_ray_sinks.files.journal import JOURNAL_DIRECTORY, Journal
from cdp_ray_sinks.files.landed import Landed, Wanted
from cdp_ray_sinks.files.ledger import Ledger
from cdp_ray_sinks.files.leftovers import Leftovers
from cdp_ray_sinks.files.publication import GroupLimits
from cdp_ray_sinks.files.publisher import Publisher
from cdp_ray_sinks.files.recovery import Damage
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.file_sink import ChainConfig, FileSink
from cdp_ray_sinks.sinks.holding import HoldPolicy
from cdp_ray_sinks.writers.base import STREAMS
from cdp_ray_sinks.writers.parquet import Compression, ParquetSettings
from cdp_ray_sinks.writers.parquet_count import count_tables
from cdp_ray_sinks.writers.parquet_format import JournalWriter, ParquetFormat
from cdp_ray_sinks.writers.parquet_schemas import UuidType

BUSY_WAIT_MS: Final = 10
"""How often it is looked whether a file was published."""


class ParquetConfig(ChainConfig):
    """Where the tables are, how they are written and when a file ends; see `ChainConfig`.

    `buffer_rows` make a row group. `compression_level` is the codec's own. `bloom_filters` on
    the ids make files quick to search for one of them. With `journal = "commit"` batches are
    acknowledged by the journal, of which `journal_backlog_bytes_max` may wait to be made rows
    of. With `"off"` the files themselves are what is acknowledged: they hold what came within
    `publish_age_s_max`, or less if more may not be held, and of the keys that end a segment
    none counts.
    """

    type: Literal["parquet"] = "parquet"
    compression: Compression = "snappy"
    compression_level: int | None = None
    buffer_rows: int = Field(default=100_000, ge=1)
    uuid_type: UuidType = "uuid"
    bloom_filters: bool = False
    idle_s: int = Field(default=900, ge=1)
    journal: Literal["commit", "off"] = "commit"
    publish_age_s_max: float = Field(default=10, ge=0, allow_inf_nan=False)
    journal_backlog_bytes_max: int = Field(default=1 << 30, ge=1 << 20)

    def build(self, context: SinkContext) -> ParquetSink:
        """The sink; nothing is opened yet."""
        return ParquetSink(self, context)

    def owned_folders(self) -> Sequence[str]:
        """The folder of the journals: an archive may lie beside the tables."""
        return (str(self.base() / JOURNAL_DIRECTORY),)

    def count_landed(self, wanted: Wanted, state_dir: Path) -> Landed | None:
        """What the files hold, by their footers, and the journal, as far as it is in no file."""
        return count_tables(self.base(), wanted)

    def settings(self) -> ParquetSettings:
        """How files are written."""
        return ParquetSettings(
            self.compression,
            self.compression_level,
            self.buffer_rows,
            self.uuid_type,
            self.bloom_filters,
        )

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        self.settings()
        return self


class ParquetSink(FileSink):
    """Durable means synced in the journal, or published if there is none.

    What was accepted is published when `close` returns.
    """

    def __init__(
        self, config: ParquetConfig, context: SinkContext, fs: FileSystem | None = None
    ) -> None:
        self._fs = fs or LocalFileSystem()
        self._format = ParquetFormat(config.settings())
        self._limits = GroupLimits(config.buffer_rows)
        self._policy = config.chain_options().policy
        self._publisher = Publisher(context.clock, config.journal_backlog_bytes_max)
        self._journals: dict[int, Journal] = {}
        self._clock = context.clock
        self._is_shared = config.shared_file_system
        self._refused_in: set[BatchId] = set()
        self._direct: DirectFiles | None = None
        if config.journal == "off":
            # A decoder's memory is one thread's.
            table_format = ParquetFormat(config.settings())
            self._direct = DirectFiles(
                table_format, self._fs, self._limits, context.clock, self._lose
            )
        super().__init__(
            config,
            JournalWriter,
            context,
            self._fs,
            directory=JOURNAL_DIRECTORY,
            new_follower=self._new_journal,
        )
        self._leftovers = Leftovers(
            self._base, self._chains, lambda workspace_id: self._journals[workspace_id].is_published
        )
        self._holding = HoldPolicy(
            context.held_bytes_max, context.held_batches_max, int(1000 * config.publish_age_s_max)
        )

    def _new_journal(self, workspace_id: int) -> Journal:
        journal = Journal(
            self._base,
            workspace_id,
            self._publisher,
            self._format,
            self._fs,
            self._limits,
            self._direct,
        )
        self._journals[workspace_id] = journal
        return journal

    def _lose(self, workspace_id: int, error: FencedError) -> None:
        self._chains.lose(workspace_id, error)

    def open(self) -> None:
        """Make the directory, go on with what other writers left behind in it.

        Raises ConfigError if it can't be one that we write. On a shared file system only
        a batch opens a workspace: who holds it can't be told there.
        """
        super().open()
        if not self._is_shared:
            with transient(f"can't look through {self._base}"):
                self._leftovers.find()
            self._leftovers.tick(self._clock.now_ms())

    def write(self, batch: Batch) -> None:
        """Accept a batch; its workspace's journal is opened and recovered if need be.

        Raises PartialWriteError for messages that do not decode: the others are accepted.
        """
        header = batch.header
        self._leftovers.keep(header.workspace_id)
        if header.schema_type not in STREAMS:
            raise TerminalError(
                f"batch {header.batch_id}: no table for schema {header.schema_type}"
            )
        if not batch.offsets_fit():
            raise TerminalError(f"batch {header.batch_id}: its offsets do not fit its bytes")
        damaged = damaged_messages(batch)
        if not damaged:
            self._accept(batch)
            return
        if len(damaged) == header.message_count:
            raise TerminalError(f"batch {header.batch_id}: {_text(damaged)}")
        self._accept_once(batch)
        raise PartialWriteError(
            header.batch_id,
            tuple(each.message for each in damaged),
            tuple(each.reason for each in damaged),
        )

    def _accept(self, batch: Batch) -> None:
        if self._direct is None:
            self._chains.append(batch)
            return
        header = batch.header
        partition = self._policy.partition_of(header.workspace_id, header.received_at_ms)
        chain = self._chains.chain(header.workspace_id)
        place = self._journals[header.workspace_id].place
        self._direct.add(batch, (partition, STREAMS[header.schema_type]), chain, place)
        self._holding.note(self._clock.monotonic_ms())

    def _accept_once(self, batch: Batch) -> None:
        """A batch that is refused in part may come again before its dead letters are kept."""
        header = batch.header
        ledger = self.ledger_for(header.workspace_id)
        is_durable = ledger.has(header.producer, header.epoch, header.sequence, header.checksum)
        if header.batch_id not in self._refused_in and not is_durable:
            self._accept(batch)
            self._refused_in.add(header.batch_id)

    def flush(self) -> None:
        """One write, one index record and one sync per open journal segment; see `Sink.flush`.

        Waits while too much of the journal is not published, and raises TransientError if that
        does not get less. Without a journal: ends, syncs and publishes what is held.
        """
        if self._direct is not None:
            self._direct.flush()
            self._holding.clear()
        else:
            self._publisher.wait_for_room()
            super().flush()
        self._refused_in.clear()

    def committed(self) -> Sequence[BatchId]:
        """Without a journal what has been published by now; with one a flush tells that."""
        return () if self._direct is None else self._direct.committed()

    def due_in_ms(self, now_ms: int) -> int:
        """0 with a journal. Without one the larger file is the better one.

        One whose time has come is ended here, and published while batches of the next come.
        """
        direct = self._direct
        if direct is None or direct.has_failed or not direct.held_batches:
            return 0
        if direct.is_open:
            held = direct.held_bytes, direct.held_batches
            wait_ms = self._holding.due_in_ms(*held, self._clock.monotonic_ms())
            if wait_ms:
                return min(wait_ms, BUSY_WAIT_MS) if direct.is_busy else wait_ms
            if not direct.is_busy:
                if not direct.end():
                    return 0
                self._holding.clear()
        return BUSY_WAIT_MS

    def tick(self, now_ms: int) -> None:
        """Seal and sync what is due; go on with what other writers left behind.

        Raises TransientError while something can't be published.
        """
        super().tick(now_ms)
        self._leftovers.tick(now_ms)
        problem = self._publisher.problem
        if problem is not None:
            raise TransientError(problem)

    def release(self, workspace_id: int) -> None:
        """Make a workspace durable, publish it and let go, so that another lane can have it."""
        if self._direct is not None:
            self.flush()
        super().release(workspace_id)

    def close(self) -> None:
        """Flush, seal, publish, let go of the directories.

        Raises TransientError for what could not be published: it is, when the sink is
        opened again.
        """
        try:
            if self._direct is not None:
                self._direct.flush()
        finally:
            try:
                super().close()
            finally:
                self._publisher.close()
                if self._direct is not None:
                    self._direct.close()
        problems = (journal.problem for journal in self._journals.values())
        problem = next(filter(None, problems), None)
        if problem is not None:
            raise TransientError(problem)

    def ledger_for(self, workspace_id: int) -> Ledger:
        """The durable batch ids of a workspace; opens its files. Raises as `write` does."""
        self._leftovers.keep(workspace_id)
        return super().ledger_for(workspace_id)

    def recovery_reports(self) -> Mapping[int, tuple[Damage, ...]]:
        """By workspace, what its journal was found to lack."""
        reports = dict(super().recovery_reports())
        for workspace_id, journal in self._journals.items():
            if journal.damage:
                reports[workspace_id] = (*reports.get(workspace_id, ()), *journal.damage)
        return reports

    def counters(self) -> dict[str, int]:
        """As of every file sink, those of the publisher, and `backlog_bytes`."""
        found = super().counters() | {"backlog_bytes": self._publisher.backlog_bytes}
        for name, count in asdict(self._publisher.counters).items():
            found[name] = count + (getattr(self._direct.counters, name) if self._direct else 0)
        return found


def _text(damaged: list[DamagedMessage]) -> str:
    shown = "; ".join(f"message {each.message}: {each.reason}" for each in damaged[:3])
    return f"{len(damaged)} of its messages do not decode: {shown}"
