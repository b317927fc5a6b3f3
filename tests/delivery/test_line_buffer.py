"""Lines wait for the one who prints them, in bounded room."""

from __future__ import annotations

import threading
import time

import pytest

from cdp_ray_sinks.delivery.line_buffer import TAKEN_LINES_MAX, Cursor, LineBuffer


def numbered(first: int, end: int) -> list[str]:
    return [f"{number}\n" for number in range(first, end)]


def test_lines_come_once_if_the_cursor_is_brought_back() -> None:
    """And again if it is not."""
    buffer = LineBuffer(7)
    assert buffer.take(Cursor(), 0) == ((7, 0), [])
    assert buffer.put(numbered(0, 3), 0)
    cursor, lines = buffer.take(Cursor(), 0)
    assert lines == numbered(0, 3)
    assert buffer.take(Cursor(), 0) == (cursor, lines)
    assert not buffer.settle(0)
    assert buffer.put(numbered(3, 5), 0)
    cursor, lines = buffer.take(cursor, 0)
    assert lines == numbered(3, 5)
    assert buffer.take(cursor, 0) == (cursor, [])
    assert buffer.settle(0)


def test_the_cursor_of_another_life_lets_nothing_go() -> None:
    """After a restart numbers begin again; the printer still has the old one."""
    buffer = LineBuffer(8)
    buffer.put(numbered(0, 2), 0)
    cursor, lines = buffer.take(Cursor(7, 100), 0)
    assert (cursor, lines) == ((8, 2), numbered(0, 2))


def test_a_full_buffer_takes_nothing_of_a_page() -> None:
    """By lines and by characters; a page larger than it passes an empty one."""
    buffer = LineBuffer(1, lines_max=4, held_bytes_max=20)
    assert buffer.put(["a" * 50], 0)
    assert not buffer.put(["b"], 0)
    cursor, _ = buffer.take(Cursor(), 0)
    buffer.take(cursor, 0)
    assert buffer.put(["a"] * 3, 0)
    assert not buffer.put(["b"] * 2, 0)
    assert not buffer.put(["b" * 18], 0)
    assert buffer.put(["b"], 0)
    with pytest.raises(ValueError, match="at most 4"):
        buffer.put(["c"] * 5, 0)


def test_one_answer_is_bounded() -> None:
    """However many lines wait."""
    buffer = LineBuffer(1, lines_max=10 * TAKEN_LINES_MAX)
    buffer.put(numbered(0, 3 * TAKEN_LINES_MAX), 0)
    cursor, found = Cursor(), []
    while lines := buffer.take(cursor, 0):
        cursor, page = lines
        if not page:
            break
        assert len(page) <= TAKEN_LINES_MAX
        found += page
    assert found == numbered(0, 3 * TAKEN_LINES_MAX)


def test_both_ends_wait_for_each_other() -> None:
    """A thread that puts and one that takes: all lines, in order, no busy waiting."""
    buffer, found = LineBuffer(1, lines_max=10), []

    def put_all() -> None:
        for number in range(300):
            assert buffer.put([f"{number}\n"], 5000)
        assert buffer.settle(5000)

    thread = threading.Thread(target=put_all)
    thread.start()
    cursor = Cursor()
    while len(found) < 300:
        cursor, lines = buffer.take(cursor, 5000)
        found += lines
    assert thread.is_alive()  # the last lines are taken, not yet printed
    buffer.take(cursor, 0)
    thread.join(60)
    assert not thread.is_alive()
    assert found == numbered(0, 300)


def test_waiting_ends_in_time() -> None:
    """Nothing to take, no room: an answer all the same."""
    buffer = LineBuffer(1, lines_max=1)
    began = time.monotonic()
    assert buffer.take(Cursor(), 50)[1] == []
    assert buffer.put(["a"], 50)
    assert not buffer.put(["b"], 50)
    assert not buffer.settle(50)
    assert 0.14 < time.monotonic() - began < 60
