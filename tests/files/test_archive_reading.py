"""Archives read by time, workspace and kind: all that matches, and nothing else looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.files.archive_reading import read_batches, selected_segments
from cdp_ray_sinks.files.selection import CLOCK_SLACK_MS, Selection

HOUR_MS = 3_600_000
NAMES = ["data.bin", "data.bin.lz4"]


def archive(maker: Any, base: Path, name: str, *, with_index: bool = True) -> Path:
    """Two workspaces, two hours each, a commit a minute for 20: messages 20 s apart."""
    for workspace_id in (7, 42):
        for hour in range(2):
            commits = [
                [
                    maker.batch(
                        [maker.message(filler=b"%d" % minute) for minute in range(3)],
                        sequence=place,
                        received_at_ms=maker.start_ms + hour * HOUR_MS + place * 60_000,
                        step_ms=20_000,
                        workspace_id=workspace_id,
                    )
                ]
                for place in range(20)
            ]
            path = maker.segment(
                base, commits, name=name, partition=f"2026-01-01/{hour:02}",
                workspace_id=workspace_id,
            )  # fmt: skip
            if not with_index:
                path.with_name(name + ".idx").unlink()
    return base


def received_in(batch: Batch) -> list[int]:
    """The received time of each record of a batch."""
    view = batch.records.data
    assert int(batch.offsets[-1]) == len(batch.records)
    return [int.from_bytes(view[start : start + 8], "big") for start in batch.offsets[:-1].tolist()]


def read(base: Path, selection: Selection) -> list[tuple[int, int]]:
    """Workspace and received time of each message; fails on any damage."""
    damage: list[Any] = []
    found = [
        (batch.header.workspace_id, time_ms)
        for _, batch in read_batches([base], damage.append, selection)
        for time_ms in received_in(batch)
    ]
    assert damage == []
    return found


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.none() | st.integers(-100, 5_000),
    last=st.none() | st.integers(-100, 5_000),
    workspaces=st.none() | st.frozensets(st.sampled_from([7, 42, 99])),
)
def test_messages_received_in_a_range_come_and_no_others(
    maker: Any,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    with_index: bool,
    first: int | None,
    last: int | None,
    workspaces: frozenset[int] | None,
) -> None:
    """Both ends included, to the message, in order; by index or by walking."""
    base = tmp_path_factory.getbasetemp() / f"archive-{name}-{with_index}"
    if not base.exists():
        archive(maker, base, name, with_index=with_index)
    start_ms = None if first is None else maker.start_ms + first * 1000
    end_ms = None if last is None else maker.start_ms + last * 1000
    expected = [
        (workspace_id, maker.start_ms + second * 1000)
        for workspace_id in (7, 42)
        for second in [*range(0, 1200, 20), *range(3600, 4800, 20)]
        if (workspaces is None or workspace_id in workspaces)
        and (first is None or second >= first)
        and (last is None or second <= last)
    ]
    selection = Selection(start_ms, end_ms, workspaces=workspaces)
    assert read(base, selection) == expected


def test_part_of_a_batch_is_a_batch_without_an_id(maker: Any, tmp_path: Path) -> None:
    """Its header is true of what is left; a batch that is wanted whole keeps its id."""
    base = archive(maker, tmp_path, "data.bin.lz4")
    selection = Selection(maker.start_ms + 20_000, maker.start_ms + 60_000 * 2 - 1)
    found = [b for _, b in read_batches([base / "42"], lambda _: None, selection)]
    part, whole = (batch.header for batch in found)
    assert (part.producer, part.message_count, part.event_count) == (bytes(16), 2, 2)
    assert part.received_at_ms == maker.start_ms + 20_000
    assert (whole.producer, whole.sequence, whole.message_count) == (maker.producer, 1, 3)


@pytest.mark.parametrize("name", NAMES)
def test_what_can_not_match_is_not_looked_at(maker: Any, tmp_path: Path, name: str) -> None:
    """Other hours' files may be missing, other commits damaged: nobody notices."""
    base = archive(maker, tmp_path, name)
    for path in base.rglob(name):
        if path.parent.name == "01":
            path.write_bytes(b"not opened")
        else:
            data = bytearray(path.read_bytes())
            data[40] ^= 1
            data[-40] ^= 1
            path.write_bytes(data)
    selection = Selection(maker.start_ms + 6 * 60_000, maker.start_ms + 8 * 60_000)
    assert len(read(base, selection)) == 2 * 7


def test_partitions_are_believed_only_where_they_are_ours(maker: Any, tmp_path: Path) -> None:
    """Other software cuts its hours by local time."""
    base = archive(maker, tmp_path, "data.bin")
    (base / "42/2026-01-01/00/data.bin.idx").unlink()
    late = Selection(start_ms=maker.start_ms + HOUR_MS)
    found = [str(info.path.relative_to(base)) for info in selected_segments(base, late)]
    assert found == [
        "7/2026-01-01/01/data.bin",
        "42/2026-01-01/00/data.bin",
        "42/2026-01-01/01/data.bin",
    ]
    by_event = Selection(start_ms=maker.start_ms + HOUR_MS, time="event")
    assert len(list(selected_segments(base, by_event))) == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_index", [True, False])
def test_event_times_are_those_of_the_events(
    maker: Any, tmp_path: Path, name: str, with_index: bool
) -> None:
    """Batches that can't hold such events are left out; where it is not known they come."""
    batches = [
        maker.batch([maker.message(5)], sequence=n, received_at_ms=maker.start_ms + n * 10_000)
        for n in range(3)
    ]
    # The events of a message happened in the five milliseconds from the archive's begin on.
    timed = [
        Batch(
            b.header._replace(time_min_ms=maker.start_ms + n * 100, time_max_ms=maker.start_ms + n),
            b.records,
            b.offsets,
        )
        for n, b in enumerate(batches[:2])
    ]
    path = maker.segment(tmp_path, [timed, batches[2:]], name=name)
    if not with_index:
        path.with_name(name + ".idx").unlink()

    def sequences(first: int, last: int) -> list[int]:
        selection = Selection(maker.start_ms + first, maker.start_ms + last, "event")
        return [len(received_in(b)) for _, b in read_batches([path], lambda _: None, selection)]

    if with_index:
        assert len(sequences(0, 0)) == 2
        assert len(sequences(50, 60)) == 1
    else:
        assert sequences(0, 4) == [3]
        assert sequences(5, 9) == []


def test_kinds_of_batches_can_be_asked_for(maker: Any, tmp_path: Path) -> None:
    """By schema, and events by their type; a mask says nothing of other schemas."""
    made = []
    for place, (schema_type, event_types) in enumerate([(1, 2), (1, 4), (2, 0), (1, 6)]):
        batch = maker.batch([maker.message(schema_type=schema_type)], sequence=place)
        header = batch.header._replace(schema_type=schema_type, event_types=event_types)
        made.append(Batch(header, batch.records, batch.offsets))
    maker.segment(tmp_path, [made], name="data.bin.lz4")

    def sequences(**selection: Any) -> list[int]:
        found = read_batches([tmp_path], lambda _: None, Selection(**selection))
        return [batch.header.sequence for _, batch in found]

    assert sequences(schema_types=frozenset({1})) == [0, 1, 3]
    assert sequences(schema_types=frozenset({2})) == [2]
    assert sequences(event_types=4) == [1, 2, 3]
    assert sequences(event_types=2, schema_types=frozenset({1})) == [0, 3]


def test_damage_goes_to_the_report_and_reading_goes_on(maker: Any, tmp_path: Path) -> None:
    """A file that can't be opened, one that is no archive, one that is damaged."""
    base = archive(maker, tmp_path, "data.bin.lz4")
    (base / "7/2026-01-01/00/data.bin.lz4").write_bytes(b"")
    (base / "7/2026-01-01/01/data.bin.lz4").unlink()
    (base / "7/2026-01-01/01/data.bin.lz4").mkdir()
    (base / "42/2026-01-01/00/events.log").write_bytes(b"text is not read")
    damage: list[Any] = []
    found = sum(len(received_in(b)) for _, b in read_batches([base], damage.append))
    assert found == 2 * 60
    assert damage[0].path.endswith("7/2026-01-01/00/data.bin.lz4")


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """And no empty archive."""
    with pytest.raises(FileNotFoundError):
        list(read_batches([tmp_path / "absent"], lambda _: None))


def test_clocks_that_differ_hide_nothing(maker: Any, tmp_path: Path) -> None:
    """Within the slack, and at any distance when a commit is from before its own messages."""
    batch = maker.batch([maker.message()] * 2, step_ms=CLOCK_SLACK_MS - 100)
    path = maker.segment(tmp_path, [[batch]], name="data.bin.lz4")
    after = Selection(start_ms=maker.start_ms + CLOCK_SLACK_MS - 100)
    assert len(read(path, after)) == 1


@pytest.mark.parametrize("ends", [(-(2**70), 2**70), (None, 2**70), (-(2**70), None)])
def test_ends_beyond_any_time_are_no_error(maker: Any, tmp_path: Path, ends: Any) -> None:
    """They are the same as none."""
    path = maker.segment(tmp_path, [[maker.batch([maker.message()] * 3)]])
    assert len(read(path, Selection(*ends))) == 3
    assert read(path, Selection(2**64, None)) == []
    assert read(path, Selection(None, -1)) == []
