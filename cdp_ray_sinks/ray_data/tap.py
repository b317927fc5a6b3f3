"""`CdpTap`: rows into a running pipeline on their way through a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.data.block import BlockAccessor

from cdp_ray_sinks.actors.specs import NAMESPACE
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.ray_data.row_batches import RowKind, RowMapping
from cdp_ray_sinks.ray_data.task_place import place_of_call
from cdp_ray_sinks.ray_data.write_task import plan_under, write_blocks


class CdpTap:
    """Sends the rows that pass to the running pipeline `name`, for `Dataset.map_batches`.

    Each batch is handed on unchanged, as it came, once its rows are settled by every required
    sink. Rows, columns and `bad_rows_to` are those of `CdpDatasink`. Best with
    `batch_format="pyarrow"` and without a `batch_size`: then blocks pass as they are.

    Batches have ids made from `tap_id`, the task and their place in it, so a task that is tried
    again adds nothing twice, nor does a dataset that is executed again and gives the same rows to
    the same tasks. A tap is made on the driver, for one place in one dataset.

    Raises ConfigError, also from a task: when it is no task of Ray Data, or one that Ray Data
    may try again from within (`DataContext.retried_map_errors`). A call raises what
    `write_blocks` raises.
    """

    def __init__(
        self,
        name: str,
        *,
        rows: RowKind = "events",
        columns: Mapping[str, str] | None = None,
        workspace_id: int | None = None,
        received_at_ms: int | None = None,
        bad_rows_to: str | Path | None = None,
        tap_id: str | None = None,
        namespace: str = NAMESPACE,
    ) -> None:
        mapping = RowMapping(rows, dict(columns or {}), workspace_id)
        if tap_id is None and _is_in_actor():
            raise ConfigError(
                "CdpTap: inside an actor give tap_id=…: each actor of a pool would make one of "
                "its own, and rows of a task that another one tries again would be there twice"
            )
        self._plan = plan_under(
            "tap", "tap_id", tap_id, mapping, received_at_ms, bad_rows_to,
            pipeline=name, namespace=namespace,
        )  # fmt: skip

    @property
    def tap_id(self) -> str:
        """What the tap is known by: as given, or as made."""
        return self._plan.write_id

    def __call__(self, batch: Any) -> Any:
        """Send the rows of one batch; the same batch, when they are durable."""
        place = place_of_call(self.tap_id, "CdpTap")
        table = BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).to_arrow()
        if table.num_rows:
            write_blocks(self._plan, place, lambda: [table])
        return batch


def _is_in_actor() -> bool:
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
