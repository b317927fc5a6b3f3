"""Parquet as the format of published files; see `files.table_format`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, ClassVar

from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.batch.columns import DecodeBuffers
from cdp_ray_sinks.writers.base import STREAMS
from cdp_ray_sinks.writers.binary import BinaryWriter
from cdp_ray_sinks.writers.parquet import SUFFIX, ParquetFile, ParquetSettings, read_footer


class ParquetFormat:
    """Makes Parquet files; one decoder's memory serves all of them."""

    suffix: ClassVar[str] = SUFFIX

    def __init__(self, settings: ParquetSettings) -> None:
        self._settings = settings
        self._buffers = DecodeBuffers()

    def new_file(self, out: BinaryIO, stream: str, workspace_id: int) -> ParquetFile:
        """A file that is written to `out`."""
        return ParquetFile(out, stream, workspace_id, self._settings, self._buffers)

    def metadata_of(self, path: Path) -> Mapping[str, str] | None:
        """What `ParquetFile.finish` was given; None if that is no file of ours."""
        try:
            return read_footer(path).metadata
        except ValueError:
            return None
        except OSError as error:
            if error.errno is None:  # how a footer is refused that only looks like one
                return None
            raise


class JournalWriter(BinaryWriter):
    """Writes batches as they are, into a stream for each schema that has a table."""

    def stream_of(self, header: BatchHeader) -> str:
        """The name of the table; KeyError for a schema without one."""
        return STREAMS[header.schema_type]
