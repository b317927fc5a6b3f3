"""Reading from any record on, and by the time messages were received."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lz4.frame
import pytest

from cdp_ray_sinks.writers.binary import BinaryReader, SeekableBinaryReader

MINUTE_MS = 60_000


@pytest.fixture(params=["data.bin", "data.bin.lz4"])
def name(request: Any) -> str:
    """What the segment is called: plain, or compressed."""
    return str(request.param)


def minutes(maker: Any, tmp_path: Path, name: str, *, with_index: bool = True) -> Path:
    """Ten commits, five minutes apart, of one batch with four messages a second apart."""
    commits = [
        [
            maker.batch(
                [maker.message(filler=b"<%d>" % (4 * n + m)) for m in range(4)],
                sequence=n,
                received_at_ms=maker.start_ms + n * 5 * MINUTE_MS,
                step_ms=1000,
            )
        ]
        for n in range(10)
    ]
    path: Path = maker.segment(tmp_path, commits, name=name)
    if not with_index:
        path.with_name(name + ".idx").unlink()
    return path


def content_bytes(path: Path) -> int:
    """How many bytes of records a file holds."""
    with lz4.frame.open(path) if path.suffix == ".lz4" else path.open("rb") as file:
        return len(file.read())


def text_of(message: Any) -> int:
    """The number in a message's payload."""
    return int(bytes(message.message).partition(b"<")[2].partition(b">")[0])


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize(
    ("first_ms", "last_ms", "numbers"),
    [
        (0, 0, [0]),
        (0, 999, [0]),
        (0, 1000, [0, 1]),
        (1000, 3000, [1, 2, 3]),
        (3001, 5 * MINUTE_MS - 1, []),
        (5 * MINUTE_MS + 2000, 10 * MINUTE_MS + 1000, [6, 7, 8, 9]),
        (45 * MINUTE_MS + 3000, 10**12, [39]),
        (45 * MINUTE_MS + 3001, 10**12, []),
        (-(10**12), -1, []),
        (5, 4, []),
    ],
)
def test_a_time_range_includes_both_ends(
    maker: Any,
    tmp_path: Path,
    name: str,
    with_index: bool,
    first_ms: int,
    last_ms: int,
    numbers: list[int],
) -> None:
    """Exactly the messages received in it, in file order, with an index and without."""
    path = minutes(maker, tmp_path, name, with_index=with_index)
    with SeekableBinaryReader.open(path) as reader:
        found = reader.scan_time_range(maker.start_ms + first_ms, maker.start_ms + last_ms)
        assert [text_of(message) for message in found] == numbers


@pytest.mark.parametrize("with_index", [True, False])
def test_any_range_of_u64_can_be_asked_for(
    maker: Any, tmp_path: Path, name: str, with_index: bool
) -> None:
    """Ends outside of what a time can be are no error."""
    path = minutes(maker, tmp_path, name, with_index=with_index)
    with SeekableBinaryReader.open(path) as reader:
        assert len(list(reader.scan_time_range(-(2**70), 2**70))) == 40
        assert list(reader.scan_time_range(2**64, 2**70)) == []
        assert list(reader.scan_time_range(-(2**70), -(2**65))) == []


def test_a_seek_by_time_reads_only_commits_that_can_match(
    maker: Any, tmp_path: Path, name: str
) -> None:
    """Damage in commits of other times is not even met."""
    path = minutes(maker, tmp_path, name)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    data[-100] ^= 1
    path.write_bytes(data)
    with SeekableBinaryReader.open(path) as reader:
        found = reader.scan_time_range(
            maker.start_ms + 20 * MINUTE_MS, maker.start_ms + 21 * MINUTE_MS
        )
        assert [text_of(message) for message in found] == [16, 17, 18, 19]
        assert reader.damaged == []


def test_a_sources_clock_that_runs_ahead_hides_nothing(maker: Any, tmp_path: Path) -> None:
    """Commits from before their own messages tell nothing, so all of them are looked into."""
    batches = [maker.batch([maker.message()] * 3, sequence=n, step_ms=MINUTE_MS) for n in (0, 1)]
    path = maker.segment(tmp_path, [batches[:1], batches[1:]])
    early = maker.index([batches[:1], batches[1:]], delay_ms=-180 * MINUTE_MS)
    path.with_name("data.bin.idx").write_bytes(b"".join(early))
    with SeekableBinaryReader.open(path) as reader:
        found = reader.scan_time_range(maker.start_ms + 90_000, maker.start_ms + 3 * MINUTE_MS)
        assert len(list(found)) == 2


def test_messages_received_just_after_their_commits_time_are_found(
    maker: Any, tmp_path: Path
) -> None:
    """Clocks that differ by less than a minute need no warning to be coped with."""
    batch = maker.batch([maker.message()] * 3, step_ms=20_000)
    path = maker.segment(tmp_path, [[batch]])
    with SeekableBinaryReader.open(path) as reader:
        assert len(list(reader.scan_time_range(maker.start_ms + 40_000, 2**63))) == 1


def test_the_scan_streams(maker: Any, tmp_path: Path, name: str) -> None:
    """The first message is there before the rest was looked at."""
    path = minutes(maker, tmp_path, name)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with SeekableBinaryReader.open(path) as reader:
        scan = reader.scan_time_range(0, 2**63)
        assert text_of(next(scan)) == 0
        assert reader.damaged == []
        assert len(list(scan)) == 35
        assert len(reader.damaged) == 1


@pytest.mark.parametrize("with_index", [True, False])
def test_position_moves_from_record_to_record(
    maker: Any, tmp_path: Path, name: str, with_index: bool
) -> None:
    """It is the offset of the next message, and in the end that of the end."""
    path = minutes(maker, tmp_path, name, with_index=with_index)
    with BinaryReader.open(path) as whole:
        offsets = [message.offset for message in whole.read_all()]
    with SeekableBinaryReader.open(path) as reader:
        seen = []
        while True:
            before = reader.position
            if reader.read_message() is None:
                break
            seen.append(before)
        assert seen == offsets
        assert reader.position == content_bytes(path)


@pytest.mark.parametrize("with_index", [True, False])
def test_any_message_can_be_sought(maker: Any, tmp_path: Path, name: str, with_index: bool) -> None:
    """Forwards and backwards, again and again."""
    path = minutes(maker, tmp_path, name, with_index=with_index)
    with BinaryReader.open(path) as whole:
        messages = whole.read_all()
    with SeekableBinaryReader.open(path) as reader:
        for number in (39, 0, 17, 18, 5, 5, 38):
            reader.seek(messages[number].offset)
            found = reader.read_message()
            assert found is not None
            assert (text_of(found), found.offset) == (number, messages[number].offset)
        reader.seek(content_bytes(path))
        assert reader.read_message() is None


@pytest.mark.parametrize("with_index", [True, False])
def test_messages_can_be_skipped(maker: Any, tmp_path: Path, name: str, with_index: bool) -> None:
    """Skipping moves one message on, and says when there was none."""
    with SeekableBinaryReader.open(minutes(maker, tmp_path, name, with_index=with_index)) as reader:
        assert [reader.skip_message() for _ in range(7)] == [True] * 7
        message = reader.read_message()
        assert message is not None
        assert text_of(message) == 7
        while reader.skip_message():
            pass
        assert not reader.skip_message()
        assert reader.read_message() is None


@pytest.mark.parametrize("position", [-1, 10**9])
def test_a_seek_outside_of_the_file_is_an_error(
    maker: Any, tmp_path: Path, name: str, position: int
) -> None:
    """The error names the file and what is allowed."""
    with (
        SeekableBinaryReader.open(minutes(maker, tmp_path, name)) as reader,
        pytest.raises(ValueError, match=rf"data\.bin.*: {position} is not in 0\.\."),
    ):
        reader.seek(position)


def test_a_seek_between_records_goes_on_at_the_next_batch(
    maker: Any, tmp_path: Path, name: str
) -> None:
    """It is reported as a place where no record begins, and nothing is made up."""
    path = minutes(maker, tmp_path, name)
    with SeekableBinaryReader.open(path) as reader:
        reader.seek(5)
        message = reader.read_message()
        assert message is not None
        assert text_of(message) == 4
        (damage,) = reader.damaged
    assert (damage.offset, damage.reason) in (
        (5, "no record begins here"),
        (0, "no record begins here, at 5 of the content"),
    )


def test_a_damaged_batch_is_stepped_over(maker: Any, tmp_path: Path, name: str) -> None:
    """Reading goes on behind it, and it is reported once."""
    path = minutes(maker, tmp_path, name)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with SeekableBinaryReader.open(path) as reader:
        message = reader.read_message()
        assert message is not None
        assert text_of(message) == 4
        reader.seek(0)
        reader.skip_message()
        assert len(reader.damaged) == 1
        assert reader.damaged[0].offset < 50


def test_an_unsealed_tail_cannot_be_sought(maker: Any, tmp_path: Path, name: str) -> None:
    """What no commit covers is not there."""
    path = minutes(maker, tmp_path, name)
    end = content_bytes(path)
    path.write_bytes(path.read_bytes() + b"tail" * 10)
    with SeekableBinaryReader.open(path) as reader:
        with pytest.raises(ValueError, match=f"0..{end}"):
            reader.seek(end + 1)
        reader.seek(end)
        assert reader.read_message() is None
