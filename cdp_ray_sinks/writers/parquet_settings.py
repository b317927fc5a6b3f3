"""How Parquet files are written: what can be chosen, and what was measured to be best.

Columns of many different texts have no dictionary, which would be built, found too large and
thrown away; ids have one, because a device or session has many events; times go as
differences. Statistics, and so the page index, are there for what queries select by.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any, Final, Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from cdp_ray_sinks.writers.parquet_schemas import UuidType

Compression: TypeAlias = Literal["snappy", "zstd", "lz4", "none"]

ROW_GROUP_ROWS: Final = 100_000
LEVELS: Final = {"zstd": (1, 22), "lz4": (1, 12)}
"""The levels that a codec has, lowest and highest."""

_WRITE_BATCH_ROWS: Final = 8192
_DELTAS: Final = ("timestamp", "batch_timestamp", "duration_ns")
_NO_DICTIONARY: Final = {
    *_DELTAS,
    "timestamp_raw",
    "payload",
    "payload_bytes",
    "entity",
    "value",
    "trace_id",
    "span_id",
    "parent_span_id",
    "int_labels.key_value.value",
    "histogram.count",
    "histogram.sum",
    "histogram.min",
    "histogram.max",
    "histogram.buckets.list.element.count",
}
_NO_STATISTICS: Final = {"payload", "payload_bytes", "device_id", "session_id", "source_ip"}
_BLOOM_PARTS: Final = 0.01


@dataclass(frozen=True, slots=True)
class ParquetSettings:
    """How files are written.

    `level` is the codec's own, within LEVELS; None is 1 for zstd, and for lz4 its quick way.
    `uuid_type` "text" is for engines that don't read UUIDs. `bloom_filters` on the ids make
    looking for one of them quick.

    Raises ValueError for what can't be.
    """

    compression: Compression = "snappy"
    level: int | None = None
    row_group_rows: int = ROW_GROUP_ROWS
    uuid_type: UuidType = "uuid"
    bloom_filters: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("compression", self.compression, get_args(Compression)),
            ("uuid_type", self.uuid_type, get_args(UuidType)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")
        if self.row_group_rows < 1:
            raise ValueError(f"row_group_rows {self.row_group_rows} is not at least 1")
        if self.level is not None:
            lowest, highest = LEVELS.get(self.compression, (1, 0))
            if highest == 0:
                raise ValueError(f"{self.compression} has no levels")
            if not lowest <= self.level <= highest:
                raise ValueError(
                    f"{self.compression} level {self.level} is not in {lowest}..{highest}"
                )
        if self.bloom_filters and not can_write_bloom_filters():
            raise ValueError("bloom_filters need a newer pyarrow")


def can_write_bloom_filters() -> bool:
    """Whether the installed pyarrow can."""
    return "bloom_filter_options" in signature(pq.ParquetWriter.__init__).parameters


def writer_options(settings: ParquetSettings, schema: pa.Schema) -> dict[str, Any]:
    """The arguments of `pyarrow.parquet.ParquetWriter` that files of a schema are written with."""
    leaves = leaf_paths(schema)
    options: dict[str, Any] = {
        "version": "2.6",
        "compression": settings.compression,
        "compression_level": 1
        if settings.compression == "zstd" and settings.level is None
        else settings.level,
        "use_dictionary": [path for path in leaves if path not in _NO_DICTIONARY],
        "column_encoding": {path: "DELTA_BINARY_PACKED" for path in leaves if path in _DELTAS},
        "write_statistics": [path for path in leaves if path not in _NO_STATISTICS],
        "write_page_index": True,
        "write_batch_size": _WRITE_BATCH_ROWS,
        "sorting_columns": [pq.SortingColumn(0, descending=False, nulls_first=False)],
    }
    if settings.bloom_filters:
        ids = [path for path in leaves if path.endswith("_id") and path != "workspace_id"]
        options["bloom_filter_options"] = {
            path: {"ndv": settings.row_group_rows, "fpp": _BLOOM_PARTS} for path in ids
        }
    return options


def leaf_paths(schema: pa.Schema) -> list[str]:
    """The paths of the columns that a file of that schema has, as Parquet names them."""
    return [path for field in schema for path in _leaves(field.name, field.type)]


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_map(kind):
        parts = (("key", kind.key_type), ("value", kind.item_type))
        return [leaf for name, part in parts for leaf in _leaves(f"{path}.key_value.{name}", part)]
    if pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [path]
