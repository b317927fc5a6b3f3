"""Blocks of a dataset into a pipeline by reference: what lies in the object store is what is sent.

`batch_blocks` makes messages of rows in Ray Data's own tasks, which end when their block is made.
`send_blocks` hands the blocks' references to the pipeline; the driver, which owns them, keeps them
until they are settled. Sinks map the blocks as they map the batches of a source.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockAccessor

from cdp_ray_sinks.actors.joining import Joined
from cdp_ray_sinks.actors.nodes import own_node_id
from cdp_ray_sinks.actors.specs import NAMESPACE
from cdp_ray_sinks.batch.batch import BatchHeader
from cdp_ray_sinks.batch.batch_block import BatchBlock, block_of
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.ray_data.row_batches import RowKind, RowMapping
from cdp_ray_sinks.ray_data.task_place import place_of_call
from cdp_ray_sinks.ray_data.write_task import (
    TRIES_MAX,
    Settling,
    WritePlan,
    WriteReport,
    good_rows,
    id_base,
    plan_under,
)


def batch_blocks(
    dataset: ray.data.Dataset,
    *,
    rows: RowKind = "events",
    columns: Mapping[str, str] | None = None,
    workspace_id: int | None = None,
    received_at_ms: int | None = None,
    bad_rows_to: str | Path | None = None,
    write_id: str | None = None,
) -> ray.data.Dataset:
    """A Dataset whose blocks are batches of those rows, with their ids, for `send_blocks`.

    The arguments are those of `CdpDatasink`. Under the same `write_id` the same rows in the same
    tasks have the same ids, so they can be sent again. Raises ConfigError.
    """
    mapping = RowMapping(rows, dict(columns or {}), workspace_id)
    plan = plan_under("blocks", "write_id", write_id, mapping, received_at_ms, bad_rows_to)
    made: ray.data.Dataset = dataset.map_batches(
        BatchMaker(plan), batch_format="pyarrow", batch_size=None
    )
    return made


class BatchMaker:
    """Makes one block of batches of a block of rows, in a task of Ray Data."""

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan

    def __call__(self, table: pa.Table) -> pa.Table:
        """The batches' table. Raises BadRowsError and ConfigError."""
        plan = self._plan
        place = place_of_call(plan.write_id, "batch_blocks")
        producer, epoch = id_base(plan.producer_name(place))
        title = f"{plan.kind} {plan.write_id!r}, batch {place}"
        rows, _ = good_rows(plan, place, 0, table, title)
        return block_of(
            [
                replace(
                    batch,
                    header=batch.header._replace(producer=producer, epoch=epoch, sequence=number),
                )
                for number, batch in enumerate(rows.batches(are_kept=True))
            ]
        )


def send_blocks(dataset: ray.data.Dataset, name: str, *, namespace: str = NAMESPACE) -> WriteReport:
    """Send the batches of a Dataset of `batch_blocks` to the pipeline `name`, by reference.

    Returns when every required sink has settled all of them. Holds `delivery.window_bytes` of
    blocks at once; Ray Data makes the next ones as these are let go of. Raises ConfigError,
    WriteFailedError and what the dataset raises; what is durable then stays, and the same again
    adds the rest.
    """
    joined = Joined(name, namespace)
    title = f"blocks into {name!r}"
    settling = Settling(joined, f"ray_data/blocks/{secrets.token_hex(8)}", title)
    try:
        for bundle in dataset.iter_internal_ref_bundles():
            if any(part is not None for part in bundle.slices):
                raise ConfigError(f"{title}: limit the rows, before batch_blocks, not the batches")
            for reference in bundle.block_refs:
                headers, held_bytes = _facts(reference)
                for stream in _streams(headers):
                    settling.submit_block(stream, reference, held_bytes)
                    held_bytes = 0
        report = settling.settle()
        settling.may_stop(report, TRIES_MAX)
    finally:
        settling.close()
    report.rows = report.events
    return report


def _streams(headers: list[BatchHeader]) -> Iterator[list[BatchHeader]]:
    """The batches of each producer and epoch."""
    found: dict[tuple[bytes, int], list[BatchHeader]] = {}
    for header in headers:
        found.setdefault((header.producer, header.epoch), []).append(header)
    yield from found.values()


def _facts(reference: Any) -> tuple[list[BatchHeader], int]:
    """Headers and bytes of a block; a block of another node is looked at there."""
    where = ray.experimental.get_object_locations([reference])[reference]["node_ids"]
    if where and own_node_id() not in where:
        far: tuple[list[BatchHeader], int] = ray.get(_far_facts.remote(reference))
        return far
    return _facts_of(ray.get(reference))


def _facts_of(found: Any) -> tuple[list[BatchHeader], int]:
    try:
        block = BatchBlock(BlockAccessor.for_block(found).to_arrow())
    except ValueError as error:
        raise ConfigError(f"send_blocks: {error}; make them with batch_blocks") from None
    return block.headers(), block.held_bytes


@ray.remote(num_cpus=0, max_retries=3)
def _far_facts(found: Any) -> tuple[list[BatchHeader], int]:
    return _facts_of(found)
