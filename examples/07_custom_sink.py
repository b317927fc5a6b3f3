"""A sink of your own in one file: events as CSV, a file for each batch.

    python examples/07_custom_sink.py               # run from Python, read back
    cdp-sinks run examples/07_custom_sink.toml      # the same class named in a TOML file

Writes to quickstart-data/csv under the folder in which it is started.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv

from cdp_ray_sinks import (
    Batch,
    Pipeline,
    PipelineConfig,
    SchemaType,
    SinkConfig,
    SinkContext,
    SyntheticConfig,
    TerminalError,
    decode_events,
)

Column = Literal["timestamp", "event_type", "event_name", "service", "payload"]


class CsvConfig(SinkConfig):
    """What stands in the TOML file: plain data that travels to the sink's node."""

    path: Path
    columns: tuple[Column, ...] = ("timestamp", "event_name", "payload")

    def build(self, context: SinkContext) -> CsvSink:
        """The sink, on the node where it is to write."""
        return CsvSink(self)


class CsvSink:
    """Durable means: the files are synced. One named by its batch is there once, however often
    the batch is sent again."""

    def __init__(self, config: CsvConfig) -> None:
        self._folder = config.path
        self._columns = list(config.columns)
        self._is_dirty = False

    def open(self) -> None:
        """Make the folder. What keeps it from opening is shown, and tried again."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, batch: Batch) -> None:
        """Write a batch's file. An OSError is retried; a TerminalError makes a dead letter."""
        if batch.header.schema_type != SchemaType.EVENT:
            raise TerminalError("not a batch of events")
        rows = decode_events(batch).table.select(self._columns)
        text = [pa.utf8() if pa.types.is_binary(c.type) else c.type for c in rows.columns]
        rows = rows.cast(pa.schema(zip(self._columns, text, strict=True)))
        whole = self._folder / f"{batch.header.batch_id}.csv"
        unfinished = whole.with_suffix(".tmp")
        with unfinished.open("wb") as file:
            pyarrow.csv.write_csv(rows, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(whole)
        self._is_dirty = True

    def flush(self) -> None:
        """Make the names of the files durable, too; then the batches are answered."""
        if self._is_dirty:
            folder = os.open(self._folder, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            self._is_dirty = False

    def due_in_ms(self, now_ms: int) -> int:
        """Never waits for more before a flush."""
        return 0

    def tick(self, now_ms: int) -> None:
        """Nothing depends on time."""

    def close(self) -> None:
        """Everything is flushed already."""
        self.flush()


def main() -> None:
    """A hundred thousand made-up events into CSV files; read them back and count."""
    folder = Path("quickstart-data/csv/python").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    config = PipelineConfig(
        pipeline={"name": "csv", "state_dir": folder.with_name("state")},
        sources={"made": SyntheticConfig(events=100_000)},
        sinks={"csv": CsvConfig(path=folder)},
    )
    with Pipeline(config) as pipeline:
        pipeline.wait()
        pipeline.drain()
        taken = pipeline.summary()["sinks"]["csv"]["events"]
    files = sorted(folder.glob("*.csv"))
    rows = sum(pyarrow.csv.read_csv(path).num_rows for path in files)
    print(f"{taken} events taken, {rows} rows in {len(files)} files of {folder.name}")
    assert rows == taken == 100_000


if __name__ == "__main__":
    main()
