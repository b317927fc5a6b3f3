"""One Parquet file: what was added is what is read, as engines like it best."""

from __future__ import annotations

import gc
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.writers.parquet import ParquetFile, ParquetSettings, read_footer
from cdp_ray_sinks.writers.parquet_schemas import schema_of
from cdp_ray_sinks.writers.parquet_settings import (
    LEVELS,
    can_write_bloom_filters,
    leaf_paths,
    writer_options,
)

EVENTS = 5_000
STREAMS = ["events", "logs", "snapshots", "metrics", "traces"]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return synthetic_batches(EVENTS, "tell", 2_000)


def write(path: Path, batches: list[Batch], settings: ParquetSettings | None = None) -> pa.Table:
    file = ParquetFile(path, "events", 7, settings)
    file.add(batches)
    file.finish({})
    return pq.read_table(path)


def payloads_of(batches: list[Batch]) -> list[str]:
    return sorted(
        payload.decode()
        for batch in batches
        for payload in decode_events(batch).table["payload"].to_pylist()
    )


def test_what_was_added_is_what_is_read(batches: list[Batch], tmp_path: Path) -> None:
    """Every event is a row, in the order of the times."""
    found = write(tmp_path / "events.parquet", batches)
    assert sorted(found["payload"].to_pylist()) == payloads_of(batches)
    sent = np.concatenate([decode_events(batch).table["timestamp"] for batch in batches])
    assert found["timestamp"].cast(pa.int64()).to_pylist() == sorted(sent.tolist())


def test_the_footer_tells_whose_rows_it_holds(batches: list[Batch], tmp_path: Path) -> None:
    """Stream, workspace, counts and what the owner added come back."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7)
    for batch in batches:
        file.add([batch])
    file.finish({"journal_id": "here", "ledger": "…"})
    footer = read_footer(path)
    assert (footer.stream, footer.workspace_id, footer.rows) == ("events", 7, EVENTS)
    assert (footer.messages, footer.damaged_messages) == (EVENTS // 500, 0)
    assert (footer.schema_version, footer.row_groups) == (1, len(batches))
    assert footer.metadata == {"journal_id": "here", "ledger": "…"}


def test_what_the_writer_says_itself_can_t_be_overwritten(tmp_path: Path) -> None:
    """Metadata of its own names is refused before anything is written."""
    file = ParquetFile(tmp_path / "events.parquet", "events", 7)
    with pytest.raises(ValueError, match="workspace_id is the writer's own"):
        file.finish({"workspace_id": "8"})
    file.finish({})


def test_a_file_of_others_has_no_footer_of_ours(tmp_path: Path) -> None:
    """A file that is not Parquet, or not of this package, is an error that names it."""
    path = tmp_path / "other.parquet"
    for content in (b"", b"nothing", b"PAR1" * 10):
        path.write_bytes(content)
        with pytest.raises((ValueError, OSError), match=r"parquet|Parquet"):
            read_footer(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=r"other\.parquet: no cdp\."):
        read_footer(path)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"cdp.rows": "many"}), path)
    with pytest.raises(ValueError, match=r"other\.parquet"):
        read_footer(path)


@pytest.mark.parametrize(
    ("row_group_rows", "expected"),
    [
        (1, [1] * 1_000),
        (700, [667, 667, 666, 667, 667, 666, 500, 500]),
        (999, [667, 667, 666, 667, 667, 666, 500, 500]),
        (2_000, [2_000, 2_000, 1_000]),
        (4_000, [4_000, 1_000]),
        (100_000, [5_000]),
    ],
)
def test_row_groups_have_bounds_and_order(
    batches: list[Batch], tmp_path: Path, row_group_rows: int, expected: list[int]
) -> None:
    """As many batches as fit make one, a larger batch makes several alike; each is sorted."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7, ParquetSettings(row_group_rows=row_group_rows))
    some = batches if row_group_rows > 1 else batches[-1:]
    counts = file.add(some)
    file.finish({})
    found = pq.ParquetFile(path)
    groups = range(found.num_row_groups)
    assert counts.row_groups == found.num_row_groups
    assert [found.metadata.row_group(group).num_rows for group in groups] == expected
    assert sum(expected) == counts.rows == sum(batch.header.event_count for batch in some)
    for group in groups:
        times = found.read_row_group(group)["timestamp"].cast(pa.int64()).to_pylist()
        assert times == sorted(times)
        (order,) = found.metadata.row_group(group).sorting_columns
        assert (order.column_index, order.descending, order.nulls_first) == (0, False, False)
    assert sorted(found.read()["payload"].to_pylist()) == payloads_of(some)


def test_engines_can_skip_what_they_don_t_want(batches: list[Batch], tmp_path: Path) -> None:
    """Statistics and a page index on what is selected by, none on what is not."""
    path = tmp_path / "events.parquet"
    table = write(path, batches)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(place).path_in_schema: group.column(place) for place in range(12)}
    times = table["timestamp"].to_pylist()
    found = columns["timestamp"].statistics
    assert (found.min, found.max, found.null_count) == (times[0], times[-1], 0)
    names = columns["event_name"].statistics
    assert (names.min, names.max) == (
        min(table["event_name"].to_pylist()),
        max(table["event_name"].to_pylist()),
    )
    assert (columns["event_type"].statistics.min, columns["event_type"].statistics.max) == (
        "track",
        "track",
    )
    assert columns["timestamp"].has_column_index
    assert all(column.has_offset_index for column in columns.values())
    assert columns["payload"].statistics is None
    assert columns["device_id"].statistics is None
    encodings = {name: set(column.encodings) for name, column in columns.items()}
    assert "RLE_DICTIONARY" in encodings["device_id"] & encodings["event_name"]
    assert "RLE_DICTIONARY" not in encodings["payload"]
    assert "DELTA_BINARY_PACKED" in encodings["timestamp"]


@pytest.mark.skipif(not can_write_bloom_filters(), reason="this pyarrow can't")
def test_bloom_filters_are_there_if_wanted(batches: list[Batch], tmp_path: Path) -> None:
    """They take room, and change nothing that is read."""
    plain = write(tmp_path / "plain.parquet", batches)
    settings = ParquetSettings(bloom_filters=True)
    assert write(tmp_path / "filtered.parquet", batches, settings).equals(plain)
    sizes = [(tmp_path / f"{name}.parquet").stat().st_size for name in ("plain", "filtered")]
    assert sizes[0] < sizes[1]


CODECS: list[Any] = [
    ("snappy", None), ("none", None), ("zstd", None), ("lz4", None),
    *((name, level) for name, (low, high) in LEVELS.items() for level in range(low, high + 1)),
]  # fmt: skip


@pytest.mark.parametrize(("compression", "level"), CODECS)
def test_every_codec_and_level(
    batches: list[Batch], tmp_path: Path, compression: Any, level: int | None
) -> None:
    """The same rows come back, and the file says how it is compressed."""
    path = tmp_path / "events.parquet"
    found = write(path, batches[-1:], ParquetSettings(compression, level))
    assert sorted(found["payload"].to_pylist()) == payloads_of(batches[-1:])
    column = pq.ParquetFile(path).metadata.row_group(0).column(9)
    assert column.compression == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    if compression != "none":
        assert column.total_compressed_size < column.total_uncompressed_size


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"row_group_rows": 0}, "row_group_rows 0"),
        ({"compression": "gzip"}, "compression 'gzip' is none of snappy, zstd, lz4, none"),
        ({"compression": "snappy", "level": 1}, "snappy has no levels"),
        ({"compression": "none", "level": 1}, "none has no levels"),
        ({"compression": "zstd", "level": 23}, r"zstd level 23 is not in 1\.\.22"),
        ({"compression": "lz4", "level": 0}, r"lz4 level 0 is not in 1\.\.12"),
        ({"uuid_type": "int"}, "uuid_type 'int' is none of uuid, text"),
    ],
)
def test_settings_that_can_t_be_are_refused(settings: Any, text: str) -> None:
    """With what is wrong and what there is."""
    with pytest.raises(ValueError, match=text):
        ParquetSettings(**settings)


def test_a_file_object_stays_the_callers(batches: list[Batch], tmp_path: Path) -> None:
    """It gets the same bytes as a path, and is left open at their end."""
    write(tmp_path / "events.parquet", batches)
    with (tmp_path / "object.parquet").open("wb") as out:
        file = ParquetFile(out, "events", 7)
        file.add(batches)
        file.finish({})
        out.flush()
        os.fsync(out.fileno())
        assert out.tell() == os.fstat(out.fileno()).st_size
    assert (tmp_path / "object.parquet").read_bytes() == (tmp_path / "events.parquet").read_bytes()


def test_an_abandoned_file_is_let_go(batches: list[Batch], tmp_path: Path) -> None:
    """After `abandon` nothing more is written, and a second call does nothing."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7)
    file.add(batches)
    file.abandon()
    file.abandon()
    with pytest.raises(ValueError, match=r"events\.parquet"):
        read_footer(path)
    out = io.BytesIO()
    file = ParquetFile(out, "events", 7)
    file.add(batches)
    file.abandon()
    written = out.tell()
    del file
    gc.collect()
    assert (out.tell(), out.closed) == (written, False)


def test_a_forgotten_file_is_not_ended(batches: list[Batch], tmp_path: Path) -> None:
    """Only `finish` makes a file that can be read."""
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7)
    file.add(batches)
    del file
    gc.collect()
    assert path.stat().st_size > 0
    with pytest.raises(ValueError, match=r"events\.parquet"):
        read_footer(path)


class Full(io.RawIOBase):
    """A disk that is full after so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return len(data)


@pytest.mark.parametrize("room", [0, 3, 10_000, 100_000])
def test_a_full_disk_is_an_error_with_its_number(batches: list[Batch], room: int) -> None:
    """Whether it fills up at the first byte, in a row group or in the footer."""

    def write_all() -> None:
        file = ParquetFile(Full(room), "events", 7)
        try:
            file.add(batches)
            file.finish({})
        finally:
            file.abandon()

    with pytest.raises(OSError, match="No space left") as caught:
        write_all()
    assert caught.value.errno == 28
    gc.collect()


def test_a_batch_of_another_schema_is_refused(batches: list[Batch], tmp_path: Path) -> None:
    """Events don't go into a file of log entries; nothing of the call is written."""
    file = ParquetFile(tmp_path / "events.parquet", "events", 7)
    foreign = Batch(batches[1].header._replace(schema_type=2), *batches[1:2][0].to_pack()[:2])
    with pytest.raises(ValueError, match="schema 2 in events"):
        file.add([batches[0], foreign])
    assert file.rows == 0
    file.add(batches[:1])
    file.finish({})
    assert read_footer(tmp_path / "events.parquet").rows == 2_000


def test_nothing_added_is_a_file_without_rows(tmp_path: Path) -> None:
    """An empty file has all columns and says that it has no rows."""
    for stream in STREAMS:
        path = tmp_path / f"{stream}.parquet"
        file = ParquetFile(path, stream, 7)
        assert file.add([]).row_groups == 0
        file.finish({})
        assert pq.read_table(path).schema.equals(schema_of(stream))
        assert (read_footer(path).rows, read_footer(path).row_groups) == (0, 0)
    with pytest.raises(ValueError, match="'others' has no Parquet schema"):
        ParquetFile(tmp_path / "others.parquet", "others", 7)


def test_rows_can_be_prepared_while_others_are_written(
    batches: list[Batch], tmp_path: Path
) -> None:
    """Two threads and two sets of buffers make the file that one makes."""
    plain = write(tmp_path / "plain.parquet", batches, ParquetSettings(row_group_rows=2_000))
    path = tmp_path / "events.parquet"
    file = ParquetFile(path, "events", 7, ParquetSettings(row_group_rows=2_000))
    buffers = [DecodeBuffers(), DecodeBuffers()]
    for _ in range(3):  # memory that is used again
        prepared = file.prepare(batches[:1], buffers[0])
    with ThreadPoolExecutor(1) as other_thread:
        for place in range(len(batches)):
            following, other = batches[place + 1 : place + 2], buffers[(place + 1) % 2]
            ahead = other_thread.submit(file.prepare, following, other)
            file.write(prepared)
            prepared = ahead.result()
    file.finish({})
    assert prepared.rows == 0
    assert pq.read_table(path).equals(plain)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("uuid_type", ["uuid", "text"])
def test_settings_name_columns_that_there_are(stream: str, uuid_type: Any, tmp_path: Path) -> None:
    """Every path in the options is one of the file's, and each encoding fits its column."""
    schema = schema_of(stream, uuid_type)
    file = ParquetFile(tmp_path / "x.parquet", stream, 7, ParquetSettings(uuid_type=uuid_type))
    file.finish({})
    found = pq.ParquetFile(tmp_path / "x.parquet").schema
    paths = [found.column(place).path for place in range(len(found))]
    assert leaf_paths(schema) == paths
    options = writer_options(ParquetSettings(uuid_type=uuid_type), schema)
    for option in ("use_dictionary", "column_encoding", "write_statistics"):
        assert set(options[option]) <= set(paths)
    assert not set(options["use_dictionary"]) & set(options["column_encoding"])


def test_buffers_of_one_file_serve_the_next(batches: list[Batch], tmp_path: Path) -> None:
    """What was read from one file is not changed by writing another from the same memory."""
    buffers = DecodeBuffers()
    for number, some in enumerate((batches, batches[:1], batches[1:])):
        path = tmp_path / f"{number}.parquet"
        file = ParquetFile(path, "events", 7, None, buffers)
        file.add(some)
        file.finish({})
        assert sorted(pq.read_table(path)["payload"].to_pylist()) == payloads_of(some)
    assert buffers.held_bytes < 60 * sum(len(batch.records) for batch in batches)
