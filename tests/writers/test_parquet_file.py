"""One Parquet file: what was added is what is read, and the footer says whose it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import decode_events
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings, read_footer

EVENTS = 5_000


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return synthetic_batches(EVENTS, "tell", 2_000)


def test_what_was_added_is_what_is_read(batches: list[Batch], tmp_path: Path) -> None:
    """Every event is a row, with the values that the decoder gives."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7)
    counts = file.add(batches)
    file.finish({"journal_id": "here"})
    assert (counts.rows, counts.row_groups, counts.damaged) == (EVENTS, 1, ())
    found = pq.read_table(path)
    sent = pa.concat_tables([pa.table(decode_events(batch).table) for batch in batches])
    assert sorted(found["payload"].to_pylist()) == sorted(
        payload.decode() for payload in sent["payload"].to_pylist()
    )
    assert found["timestamp"].cast(pa.int64()).to_pylist() == sorted(sent["timestamp"].to_pylist())


def test_the_footer_tells_whose_rows_it_holds(batches: list[Batch], tmp_path: Path) -> None:
    """Stream, workspace, counts and what the owner added come back."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7, ParquetSettings(row_group_rows=1_000))
    for batch in batches:
        file.add([batch])
    file.finish({"journal_id": "here", "ledger": "…"})
    footer = read_footer(path)
    assert (footer.stream, footer.workspace_id, footer.rows) == ("events", 7, EVENTS)
    assert (footer.messages, footer.row_groups) == (EVENTS // 500, 5)
    assert footer.metadata == {"journal_id": "here", "ledger": "…"}


def test_a_file_of_others_has_no_footer_of_ours(tmp_path: Path) -> None:
    """A file that is not Parquet, or not of this package, is an error that names it."""
    path = tmp_path / "other.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"other\.parquet"):
        read_footer(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=r"other\.parquet"):
        read_footer(path)


def test_an_abandoned_file_is_let_go(batches: list[Batch], tmp_path: Path) -> None:
    """After `abandon` the file is no Parquet file, and a second call does nothing."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7)
    file.add(batches)
    file.abandon()
    file.abandon()
    with pytest.raises(ValueError, match=r"events\.parquet"):
        read_footer(path)


def test_a_batch_of_another_schema_is_refused(batches: list[Batch], tmp_path: Path) -> None:
    """Events don't go into a file of log entries."""
    file = ParquetFile(tmp_path / "logs.parquet", "logs", 7)
    with pytest.raises(ValueError, match="in logs"):
        file.add(batches)
    file.abandon()
