"""What is really at the destination, counted from the decoded events alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.enums import SchemaType
from cdp_ray_sinks.batch.kernels.running_number import RunningNumbers
from cdp_ray_sinks.files.archive import segments
from cdp_ray_sinks.writers.binary import BinaryReader


def numbers_found(base: Path, workspace_id: int, count: int) -> int:
    """How many of the running numbers 0 to count - 1 a workspace's archive holds.

    A number that is there twice counts as not found: it proves that something is wrong.
    """
    return numbers_found_in(base, [workspace_id], count)


def numbers_found_in(base: Path, workspace_ids: Iterable[int], count: int) -> int:
    """As `numbers_found`, over several workspaces that share the numbers."""
    numbers = RunningNumbers(count)
    for workspace_id in workspace_ids:
        directory = base / str(workspace_id)
        for segment in segments(directory) if directory.exists() else ():
            with BinaryReader.open(segment.path) as reader:
                for batch in reader.batches():
                    if batch.header.schema_type == SchemaType.EVENT:
                        numbers.add(decode_events(batch).table.column("payload"))
                    elif batch.header.schema_type == SchemaType.LOG:
                        numbers.add(decode_logs(batch).table.column("payload"))
    return count - numbers.missing - numbers.duplicated
