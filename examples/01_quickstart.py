"""Own events into a pipeline, durable in an archive, and read back.

    python examples/01_quickstart.py

Writes to quickstart-data/python under the folder in which it is started.
"""

from __future__ import annotations

import json
import time
import uuid
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdp_ray_sinks import (
    Batch,
    BinaryReader,
    DiskBinaryConfig,
    EventType,
    NullConfig,
    Pipeline,
    PipelineConfig,
    batch_of_messages,
    decode_events,
    encode_events,
)

ARCHIVE = Path("quickstart-data/python")
EVENT_COUNT = 10_000
WORKSPACE = 7


def make_batch() -> Batch:
    """10,000 events of one device as messages of 500, in one batch."""
    now_ms = time.time_ns() // 1_000_000
    records, offsets = encode_events(
        np.full(EVENT_COUNT, EventType.TRACK, np.uint8),
        np.full(EVENT_COUNT, now_ms, np.int64),
        device_ids=pa.array([uuid.uuid4().bytes] * EVENT_COUNT, pa.binary(16)),
        names=pa.array(["Page Viewed"] * EVENT_COUNT),
        payloads=pa.array([json.dumps({"page": n}) for n in range(EVENT_COUNT)]),
        events_per_message=500,
    )
    # Each record is 24 bytes of metadata and a 4-byte size in front of the message.
    messages = [records[start + 28 : end].tobytes() for start, end in pairwise(offsets.tolist())]
    return batch_of_messages(
        messages, workspace_id=WORKSPACE, received_at_ms=now_ms, source_id="example"
    )


def main() -> None:
    """Send, wait until durable, read back."""
    config = PipelineConfig(
        sinks={"archive": DiskBinaryConfig(path=ARCHIVE.absolute()), "nothing": NullConfig()}
    )
    with Pipeline(config, report=print) as pipeline:
        ticket = pipeline.producer("example").submit(make_batch())
        print("settled:", dict(ticket.result(timeout_s=30)))

    count = 0
    for path in sorted(ARCHIVE.rglob("*.bin")):
        with BinaryReader.open(path) as reader:
            for batch in reader.batches():
                table = decode_events(batch).table
                count += table.num_rows
                last = table.slice(table.num_rows - 1).to_pylist()[0]
                print(f"{path}: {last['event_name']} {last['payload'].decode()}")
    print(f"{count} events read back")


if __name__ == "__main__":
    main()
