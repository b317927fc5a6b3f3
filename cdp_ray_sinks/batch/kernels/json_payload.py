"""What of a line of JSON becomes its payload: an object of the members that stay.

Members of `properties` and `traits` (events) or `data` (logs) become members of the payload
itself, unless one of them is there already: then the object stays whole under its name. So do
those of `context` in a CONTEXT event; in others it becomes `_context`.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from cdp_ray_sinks.batch.kernels.json_members import holds, scan_members
from cdp_ray_sinks.batch.kernels.json_scan import (
    JSON_DEPTH_MAX,
    MEMBER_KEY,
    MEMBER_KEY_END,
    MEMBER_NESTED,
    MEMBER_NESTED_END,
    MEMBER_VALUE,
    MEMBER_VALUE_END,
    SCAN_DUPLICATE,
    SCAN_OK,
    name_hash,
)
from cdp_ray_sinks.batch.kernels.memory import copy_bytes, store_u8

ROLE_PAYLOAD, ROLE_MERGE, ROLE_CONTEXT = 0, 8, 9
"""A member stays; its members shall; it is the context."""
ROLE_TAKEN, ROLE_MERGED, ROLE_RENAMED = 10, 11, 12
"""What becomes of others: a column has it; its members stay; it stays as `_context`."""

_CONTEXT_EVENT = 6
_KEY_CONTEXT, _KEY_RENAMED = name_hash(b"context"), name_hash(b"_context")
_RENAMED_KEY = tuple(b'"_context":')
_COMMA, _OPEN, _CLOSE = 0x2C, 0x7B, 0x7D


@njit(nogil=True, cache=True)
def _merge(
    text: int, place: int, members: Any, hashes: Any, counts: Any, kept: Any, scratch: int
) -> int:
    """Let the members of the object at `place` join the payload if none is there yet.

    `counts` holds how many rows `members` has, and how many hashes `kept`. Returns ROLE_MERGED,
    ROLE_PAYLOAD if the object stays whole, or a negative SCAN_*.
    """
    count, kept_count = counts[0], counts[1]
    start, end = members[place, MEMBER_VALUE], members[place, MEMBER_VALUE_END]
    _, status, after = scan_members(
        text, start, end, JSON_DEPTH_MAX, members, hashes, count, scratch
    )
    if status != SCAN_OK:
        members[place, MEMBER_KEY] = members[count, MEMBER_KEY]
        members[place, MEMBER_KEY_END] = members[count, MEMBER_KEY_END]
        return status
    is_new = True
    for nested in range(count, after):
        is_new = is_new and not holds(kept, 0, kept_count, hashes[nested])
    if not is_new:
        if holds(kept, 0, kept_count, hashes[place]):
            return SCAN_DUPLICATE
        kept[kept_count] = hashes[place]
        counts[1] = kept_count + 1
        return ROLE_PAYLOAD
    for nested in range(count, after):
        kept[kept_count + nested - count] = hashes[nested]
    counts[0], counts[1] = after, kept_count + after - count
    members[place, MEMBER_NESTED], members[place, MEMBER_NESTED_END] = count, after
    return ROLE_MERGED


@njit(nogil=True, cache=True)
def settle_roles(
    text: int,
    members: Any,
    hashes: Any,
    roles: Any,
    count: int,
    code: int,
    kept: Any,
    counts: Any,
    scratch: int,
) -> tuple[int, int]:
    """Decide what becomes of each object that may be merged: (SCAN_*, the member of it)."""
    kept_count, has_objects = 0, False
    for place in range(count):
        if roles[place] == ROLE_PAYLOAD:
            kept[kept_count] = hashes[place]
            kept_count += 1
        elif roles[place] != ROLE_TAKEN:
            has_objects = True
    if not has_objects:
        return SCAN_OK, 0
    counts[0], counts[1] = count, kept_count
    for place in range(count):
        role = roles[place]
        if role == ROLE_CONTEXT and code != _CONTEXT_EVENT:
            is_free = not holds(kept, 0, counts[1], _KEY_RENAMED)
            roles[place] = ROLE_RENAMED if is_free else ROLE_PAYLOAD
            kept[counts[1]] = _KEY_RENAMED if is_free else _KEY_CONTEXT
            counts[1] += 1
        elif role in (ROLE_MERGE, ROLE_CONTEXT):
            found = _merge(text, place, members, hashes, counts, kept, scratch)
            if found < 0:
                return found, place
            roles[place] = found
    return SCAN_OK, 0


@njit(nogil=True, cache=True, forceinline=True)
def _put_span(text: int, start: int, end: int, out: int, to: int, is_first: bool) -> int:
    """Copy members behind a comma, but for the first; where they end."""
    if not is_first:
        store_u8(out, to, _COMMA)
        to += 1
    copy_bytes(out, to, text, start, end - start)
    return to + end - start


@njit(nogil=True, cache=True)
def put_payload(text: int, members: Any, roles: Any, count: int, out: int, to: int) -> int:
    """Write what stays of a line as one object, members side by side as they were sent.

    Where it ends; nothing is written if nothing stays.
    """
    begin, place = to, 0
    store_u8(out, to, _OPEN)
    to += 1
    while place < count:
        role = roles[place]
        first, last = place, place
        if role == ROLE_PAYLOAD:
            while last + 1 < count and roles[last + 1] == ROLE_PAYLOAD:
                last += 1
            place = last
        elif role == ROLE_MERGED:
            first, last = members[place, MEMBER_NESTED], members[place, MEMBER_NESTED_END] - 1
        elif role == ROLE_RENAMED:
            start, end = members[place, MEMBER_VALUE], members[place, MEMBER_VALUE_END]
            to = _put_span(text, start, start, out, to, to == begin + 1)
            for byte in _RENAMED_KEY:
                store_u8(out, to, byte)
                to += 1
            copy_bytes(out, to, text, start, end - start)
            to += end - start
        if role in (ROLE_PAYLOAD, ROLE_MERGED) and first <= last:
            start, end = members[first, MEMBER_KEY] - 1, members[last, MEMBER_VALUE_END]
            to = _put_span(text, start, end, out, to, to == begin + 1)
        place += 1
    if to == begin + 1:
        return begin
    store_u8(out, to, _CLOSE)
    return to + 1
