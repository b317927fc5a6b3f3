"""A process that commits batches and says which are acknowledged, until it is killed.

Arguments: base directory, seed, first sequence, and "shared", "own", "lz4", "text" or
"text_lz4". One line per commit: the sequences it made durable. A line `fenced` if another
writer came.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from cdp_ray_sinks.batch.batch import Batch, BatchHeader
from cdp_ray_sinks.errors import FencedError
from cdp_ray_sinks.files.chain import Chain, ChainOptions
from cdp_ray_sinks.files.rotation_policy import RotationPolicy
from cdp_ray_sinks.writers.binary import BinaryLz4Writer, BinaryWriter

START_MS = 1_767_225_600_000


def batch_of(sequence: int, filler_bytes: int) -> Batch:
    """One record that says its sequence."""
    at_ms = START_MS + (sequence // 40) * 3_600_000
    message = b"%d:" % sequence + bytes(filler_bytes)
    record = at_ms.to_bytes(8, "big") + bytes(16) + len(message).to_bytes(4, "big") + message
    records = np.frombuffer(record, np.uint8)
    header = BatchHeader(
        b"p" * 16, 1, sequence, 1, 2, 42, "kill", at_ms, 1, 1, len(records),
        xxhash.xxh3_64_intdigest(records),
    )  # fmt: skip
    return Batch(header, records, np.array([0, len(records)], np.uint64))


def writer_of(mode: str) -> Any:
    """The writer of a mode; kernels are loaded only where they are needed."""
    if mode.startswith("text"):
        from cdp_ray_sinks.writers.plaintext import PlainTextLz4Writer, PlainTextWriter

        return PlainTextWriter() if mode == "text" else PlainTextLz4Writer()
    return BinaryLz4Writer() if mode == "lz4" else BinaryWriter()


def main() -> None:
    """Write until the end of time."""
    base, seed, sequence, mode = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    draw = random.Random(seed)
    options = ChainOptions(
        RotationPolicy(segment_bytes_max=40_000), shared_file_system=mode == "shared", lease_s=1
    )
    chain = Chain(base, 42, writer_of(mode), options)
    chain.open()
    print("open", chain.epoch, flush=True)
    while True:
        group = [batch_of(sequence + i, draw.randrange(3000)) for i in range(draw.randrange(1, 6))]
        sequence += len(group)
        for batch in group:
            chain.append(batch)
        try:
            chain.commit()
        except FencedError:
            print("fenced", flush=True)
            return
        print("acked", *(batch.header.sequence for batch in group), flush=True)
        if draw.random() < 0.1:
            chain.tick(START_MS + draw.randrange(2) * 10**9)


if __name__ == "__main__":
    main()
