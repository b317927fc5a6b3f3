"""Frames out of archives and out of files of frames."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest

from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.sources.framing import BLOCK_BYTES_MAX, Framer, check_frames, holds_frames

KEY = bytes(range(1, 17))


def framed(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def refuse(problem: object) -> None:
    raise AssertionError(problem)


def frames_of(framer: Framer, path: Path, **options: Any) -> bytes:
    """All that the blocks of an archive hold; each block's ends and counts are proven."""
    return joined(framer.of_archive(path, options.pop("report", refuse), **options))


def joined(blocks: Any) -> bytes:
    parts = []
    for block in blocks:
        content = block.content.tobytes()
        position = 0
        for end in block.ends.tolist():
            (length,) = struct.unpack_from(">I", content, position)
            position += 4 + length
            assert position == end
        assert position == len(content)
        assert len(block.events) == len(block.ends)
        parts.append(content)
    return b"".join(parts)


@pytest.mark.parametrize("name", ["data.bin", "data.bin.lz4"])
@pytest.mark.parametrize("with_index", [True, False])
def test_an_archive_comes_out_under_the_key(
    maker: Any, tmp_path: Path, name: str, with_index: bool
) -> None:
    """Messages with a zeroed key become the messages that a client with the key would send."""
    fillers = [b'{"n":%d}' % n for n in range(30)]
    commits = [
        [maker.batch([maker.message(2, filler=f) for f in fillers[at : at + 10]], sequence=at)]
        for at in range(0, 30, 10)
    ]
    path = maker.segment(tmp_path, commits, name=name)
    if not with_index:
        path.with_name(name + ".idx").unlink()
    expected = b"".join(framed(maker.message(2, filler=f, key=KEY)) for f in fillers)
    assert not holds_frames(path)
    for place in (path, tmp_path):
        blocks = [
            block._replace(content=block.content.copy(), ends=block.ends.copy())
            for block in Framer(KEY, refuse).of_archive(place, refuse)
        ]
        assert joined(blocks) == expected
        assert sum(int(block.events.sum()) for block in blocks) == 60
        size = path.stat().st_size
        assert size - 8 <= blocks[-1].read_bytes <= size  # an LZ4 frame has an end mark


def test_other_softwares_keys_give_way(maker: Any, tmp_path: Path) -> None:
    """An archive whose messages still hold a key is sent under the one that is given."""
    path = tmp_path / "other.bin.lz4"
    record = maker.record(maker.message(key=b"k" * 16), maker.start_ms)
    path.write_bytes(lz4.frame.compress(record * 5))
    assert frames_of(Framer(KEY, refuse), path) == framed(maker.message(key=KEY)) * 5


def test_what_has_no_place_for_a_key_is_named_and_left_out(maker: Any, tmp_path: Path) -> None:
    """The neighbours are sent; the file and the record's place are told."""
    good = maker.message()
    records = [maker.record(m, maker.start_ms) for m in (good, b"no message at all", good)]
    path = tmp_path / "mixed.bin"
    path.write_bytes(b"".join(records))
    skipped: list[str] = []
    assert frames_of(Framer(KEY, skipped.append), path) == framed(maker.message(key=KEY)) * 2
    (text,) = skipped
    assert text.startswith(f"{path}: record at {len(records[0])}: no valid message")


def test_a_message_too_large_for_a_frame_is_left_out(maker: Any, tmp_path: Path) -> None:
    """A receiver would close the connection over it; large ones that fit go alone."""
    large = maker.message(filler=bytes(BLOCK_BYTES_MAX + 1))
    too_large = maker.message(filler=bytes(FRAME_BYTES_MAX))
    messages = [maker.message(), large, too_large, maker.message()]
    path = tmp_path / "large.bin"
    path.write_bytes(b"".join(maker.record(m, maker.start_ms) for m in messages))
    skipped: list[str] = []
    content = frames_of(Framer(bytes(15) + b"x", skipped.append), path)
    assert len(content) == sum(4 + len(messages[n]) for n in (0, 1, 3))
    assert len(skipped) == 1
    assert "are more than" in skipped[0]


def test_only_what_is_selected_goes(maker: Any, tmp_path: Path) -> None:
    """By received time, event time, workspace and kind; a message goes whole."""
    for workspace_id in (7, 8):
        events = maker.batch(
            [maker.message(filler=b"%d" % n) for n in range(3)],
            sequence=1,
            step_ms=20_000,
            workspace_id=workspace_id,
        )
        logs = maker.batch([maker.message(schema_type=2)], sequence=2, workspace_id=workspace_id)
        logs = replace(logs, header=logs.header._replace(schema_type=2, event_types=0))
        maker.segment(tmp_path, [[events, logs]], workspace_id=workspace_id)
    start = maker.start_ms

    def sent(**options: Any) -> int:
        framer = Framer(KEY, refuse)
        blocks = framer.of_archive(tmp_path, refuse, Selection(**options))
        return sum(len(block.ends) for block in blocks)

    assert sent() == 8
    assert sent(workspaces=frozenset({8})) == 4
    assert sent(schema_types=frozenset({2})) == 2
    assert sent(start_ms=start + 20_000, schema_types=frozenset({1})) == 4
    assert sent(end_ms=start, time="event") == 8
    assert sent(start_ms=start + 1, time="event") == 0
    assert sent(start_ms=-(2**70), end_ms=2**70, time="event") == 8
    assert sent(schema_types=frozenset({1}), event_types=1 << 1) == 6
    assert sent(schema_types=frozenset({1}), event_types=1 << 2) == 0


def test_damage_is_reported_and_the_rest_sent(maker: Any, tmp_path: Path) -> None:
    """A flipped byte costs its batch."""
    commits = [[maker.batch([maker.message()], sequence=n)] for n in range(3)]
    path = maker.segment(tmp_path, commits)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    damage: list[CorruptSegmentError] = []
    sent = frames_of(Framer(KEY, refuse), tmp_path, report=damage.append)
    assert sent == framed(maker.message(key=KEY)) * 2
    assert len(damage) == 1


def test_a_file_of_frames_goes_as_it_is_or_under_the_key(maker: Any, tmp_path: Path) -> None:
    """Without a key every byte is kept; with one, what can't hold it is named."""
    path = tmp_path / "frames.bin"
    own = maker.message(3, key=b"o" * 16)
    path.write_bytes(framed(own) * 3 + framed(b"junk") + framed(own))
    assert holds_frames(path)
    blocks = list(Framer(None, refuse).of_file(path))
    assert joined(blocks) == path.read_bytes()
    assert sum(int(block.events.sum()) for block in blocks) == 12
    skipped: list[str] = []
    under_key = joined(Framer(KEY, skipped.append).of_file(path))
    assert under_key == framed(maker.message(3, key=KEY)) * 4
    assert len(skipped) == 1
    assert f"frame at {3 * len(framed(own))}" in skipped[0]


def test_blocks_stay_small_however_large_the_file(maker: Any, tmp_path: Path) -> None:
    """Cut at frames, of which even one larger than a block comes whole."""
    path = tmp_path / "frames.bin"
    large = framed(maker.message(filler=bytes(BLOCK_BYTES_MAX)))
    small = framed(maker.message(filler=bytes(100_000)))
    path.write_bytes(small * 50 + large + small)
    sizes = []
    content = b""
    for block in Framer(None, refuse).of_file(path):
        sizes.append(len(block.content))
        content += block.content.tobytes()
    assert content == path.read_bytes()
    assert max(sizes) <= len(large)
    assert sum(size > BLOCK_BYTES_MAX for size in sizes) == 1


def test_what_a_file_holds_is_told_by_its_bytes(maker: Any, tmp_path: Path) -> None:
    """Whatever its name is; of nothing, or something else, it says so."""
    path = tmp_path / "data.bin"
    path.write_text("hello, this is no such file")
    assert holds_frames(path) is None
    path.write_bytes(b"")
    assert holds_frames(path) is None
    assert list(Framer(None, refuse).of_file(path)) == []
    path.write_bytes(maker.record(maker.message(), maker.start_ms) * 100)
    assert not holds_frames(path)
    path.write_bytes(framed(maker.message()) * 100)
    assert holds_frames(path)
    with pytest.raises(ConfigError, match=r"absent\.bin: No such file"):
        holds_frames(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    ("tail", "reason"),
    [(b"\0\0", "cut off"), (struct.pack(">I", 9) + b"x", "cut off"), (b"\xff" * 9, "above")],
)
def test_what_is_not_frames_is_named(maker: Any, tmp_path: Path, tail: bytes, reason: str) -> None:
    """The error has the file and the offset, whether looked at before or while sending."""
    path = tmp_path / "frames.bin"
    good = framed(maker.message())
    path.write_bytes(good + tail)
    match = rf"frames.bin: .*{reason}.* {len(good)}$"
    with pytest.raises(CorruptSegmentError, match=match):
        check_frames(path)
    with pytest.raises(CorruptSegmentError, match=match):
        list(Framer(None, refuse).of_file(path))


def test_a_key_is_needed_and_has_16_bytes(maker: Any, tmp_path: Path) -> None:
    """An archive without one is refused; the error of a wrong one does not show it."""
    maker.segment(tmp_path, [[maker.batch([maker.message()])]])
    with pytest.raises(ConfigError, match="keeps no api keys"):
        list(Framer(None, refuse).of_archive(tmp_path, refuse))
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        Framer(b"abc", refuse)
    assert np.frombuffer(KEY, np.uint8).tobytes() not in repr(Framer(KEY, refuse)).encode()
