"""Damaged messages as text: one raw line each, or the very events that the decoders find.

The damage is that of test_decode_fuzz.py; `CDP_FUZZ_ROUNDS` counts here too.
"""

from __future__ import annotations

import random
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.columns import DecodeBuffers, decode_events, decode_logs
from cdp_ray_sinks.batch.text_lines import BUFFER_BYTES_MIN, TextLines

ID_NAMES = ("device_id", "session_id", "source_ip")


@pytest.fixture(scope="module")
def damage() -> Any:
    """The module whose messages and whose damage these are."""
    # Tests are no package, so a file beside this one is not there to be imported.
    path = Path(__file__).with_name("test_decode_fuzz.py")
    spec = spec_from_file_location("decode_fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(lines: TextLines, batch: Batch, out: Any) -> bytes:
    """All lines, through one buffer with canaries behind it."""
    found = []
    out[-8:] = 0xA5
    lines.start(batch)
    while not lines.is_done:
        found.append(out[: lines.fill(out[:-8])].tobytes())
    assert (out[-8:] == 0xA5).all()
    return b"".join(found)


def repaired(value: Any) -> str | None:
    """A text value as the decoders give it."""
    return None if value is None else value.decode("utf-8", "replace")


@pytest.mark.parametrize("schema_type", [1, 2])
@pytest.mark.parametrize("out_bytes", [BUFFER_BYTES_MIN + 8, 100_000])
def test_lines_are_what_the_decoders_find(
    oracle: Any, damage: Any, line_parser: Any, schema_type: int, out_bytes: int
) -> None:
    """Message by message, in the same order, whatever the size of the buffers."""
    lines, buffers, out = TextLines(), DecodeBuffers(), np.zeros(out_bytes, np.uint8)
    decode = decode_events if schema_type == 1 else decode_logs
    texts = ("event_name",) if schema_type == 1 else ("source", "service")
    kinds = line_parser.event_types if schema_type == 1 else line_parser.levels
    for batch, messages in damage.batches(oracle, schema_type, damage.ROUNDS // 20):
        decoded = decode(batch, buffers=buffers)
        rows = decoded.table.to_pylist()
        for place in decoded.damaged.tolist():
            rows.append({"message_index": place, "raw": messages[place]})
        rows.sort(key=lambda row: row["message_index"])
        text = text_of(lines, batch, out)
        for line, row in zip(line_parser.lines(text), rows, strict=True):
            fields = line_parser.parse(line)
            if "raw" in row:
                assert (fields["kind"], fields["count"]) == ("RAW", len(row["raw"]))
                assert fields["payload"] == line_parser.as_read(row["raw"])
                continue
            assert fields["received"] == row["received_at_ms"]
            code = row["event_type"] if schema_type == 1 else row["level"]
            assert fields["kind"] == kinds[code]
            assert fields["timestamp"] == row["timestamp"]
            assert all(fields[name] == row[name] for name in ID_NAMES if name in fields)
            assert fields["payload"] == line_parser.as_read(row["payload"])
            for name in texts:
                if not isinstance(fields[name], line_parser.Cut):
                    assert repaired(fields[name]) == row[name]


@pytest.mark.parametrize("schema_type", range(6))
def test_any_damage_leaves_one_line_each(
    oracle: Any, damage: Any, line_parser: Any, schema_type: int
) -> None:
    """Also for messages whose schema is another than the batch says."""
    chance, lines = random.Random(schema_type), TextLines()
    out = np.zeros(60_000, np.uint8)
    good = damage.seeds(oracle, 1) + damage.seeds(oracle, 2)
    good += [oracle.build(b"some data", kind) for kind in (3, 4, 5)]
    for _ in range(damage.ROUNDS // 1000):
        messages = [
            damage.damaged(chance, chance.choice(good), chance.choice(good)) for _ in range(100)
        ]
        text = text_of(lines, oracle.batch(messages, schema_type), out)
        found = [line_parser.parse(line) for line in line_parser.lines(text)]
        if schema_type in (0, 3, 4, 5):
            assert len(found) == len(messages)


def test_nothing_is_read_behind_the_records(oracle: Any, damage: Any) -> None:
    """The records of a batch may end where the process's memory ends."""
    chance, lines = random.Random(7), TextLines()
    guarded, out = damage.Guarded(), np.zeros(60_000, np.uint8)
    for schema_type in (1, 2, 3):
        good = [*damage.seeds(oracle, min(schema_type, 2)), oracle.build(b"a" * 40, 3)]
        for _ in range(200):
            last = damage.damaged(chance, chance.choice(good), chance.choice(good))
            batch = oracle.batch([chance.choice(good), last], schema_type)
            records = guarded.array(batch.records.tobytes())
            text = text_of(lines, batch, out)
            assert text_of(lines, Batch(batch.header, records, batch.offsets), out) == text


def test_offsets_at_random_break_nothing(oracle: Any, damage: Any, line_parser: Any) -> None:
    """Whatever a batch's offsets claim, nothing outside its records is touched."""
    batch = oracle.batch(damage.seeds(oracle, 1) * 5)
    chance, lines, out = np.random.default_rng(5), TextLines(), np.zeros(60_000, np.uint8)
    for _ in range(300):
        offsets = batch.offsets.copy()
        places = chance.integers(0, len(offsets), 3)
        shifts = chance.integers(0, 64, 3, np.uint64)
        offsets[places] = chance.integers(0, 2**64, 3, np.uint64) >> shifts
        line_parser.lines(text_of(lines, Batch(batch.header, batch.records, offsets), out))
