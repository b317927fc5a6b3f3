"""Write one line of text that may be larger than the output, piece by piece."""

from __future__ import annotations

from typing import Any

from numba import njit

from cdp_ray_sinks.batch.kernels.escape import (
    AT_END,
    IN_FIELD,
    VALUE_SLACK_BYTES,
    VECTOR_BYTES,
    escape_text,
    is_utf8,
    put_beginning,
    put_hex,
)
from cdp_ray_sinks.batch.kernels.memory import address_of, load_i64, store_u8
from cdp_ray_sinks.batch.kernels.text import (
    DEVICE_AT,
    DONE,
    EVENT,
    FILLED,
    FREE_BYTES_MIN,
    FULL,
    KIND,
    LINE_TIME,
    MESSAGE,
    POSITION,
    SESSION_AT,
    STAGE,
    VALUES,
)
from cdp_ray_sinks.batch.kernels.text_fields import (
    DATA,
    DATA_BYTES,
    LOG_LEVELS,
    MESSAGE_BYTES,
    NAME,
    RAW,
    SERVICE,
    SESSION,
    SOURCE,
    TIME,
    put_head,
    put_id,
    put_tail,
    put_time,
    put_whole_head,
    put_word,
)


@njit(nogil=True, cache=True)
def _put_fixed(out: int, at: int, buffer: int, fixed: int, memory: int, state: int) -> int:
    """Write what comes before the value of the line's stage; returns where it ends."""
    kind, stage = load_i64(state, 8 * KIND), load_i64(state, 8 * STAGE)
    if kind >= DATA:
        word = MESSAGE_BYTES if kind == RAW else DATA_BYTES
        count = load_i64(state, 8 * (VALUES + 1)) - load_i64(state, 8 * VALUES)
        return put_whole_head(out, at, fixed, memory, kind, word, count)
    if stage == 0:
        at = put_head(out, at, fixed, memory, kind)
        if kind < LOG_LEVELS:
            at = put_id(out, at, buffer, load_i64(state, 8 * DEVICE_AT))
            at = put_word(out, at, fixed, SESSION)
        at = put_id(out, at, buffer, load_i64(state, 8 * SESSION_AT))
        return put_word(out, at, fixed, NAME if kind < LOG_LEVELS else SOURCE)
    if stage == 1 and kind >= LOG_LEVELS:
        return put_word(out, at, fixed, SERVICE)
    at = put_word(out, at, fixed, TIME)
    at = put_time(out, at, fixed, memory, load_i64(state, 8 * LINE_TIME))
    return put_tail(out, at, memory)


@njit(nogil=True, cache=True)
def format_long_line(records: Any, fixed: Any, memory: Any, out: Any, state: Any) -> int:
    """Write more of the line that `format_lines` left in `state`, to out[state[FILLED]:].

    Returns FULL, or DONE with the line whole and `state` at what follows it.
    """
    buffer, out_at, state_at = address_of(records), address_of(out), address_of(state)
    limit, out_end = len(records) - VECTOR_BYTES, len(out)
    kind, at = state[KIND], state[FILLED]
    stages = 1 if kind >= DATA else 2 if kind < LOG_LEVELS else 3
    for stage in range(state[STAGE], stages):
        start, end = state[VALUES + 2 * stage], state[VALUES + 2 * stage + 1]
        state[STAGE] = stage
        is_text = True
        if state[POSITION] < 0:
            if at + FREE_BYTES_MIN > out_end:
                state[FILLED] = at
                return FULL
            at = _put_fixed(out_at, at, buffer, address_of(fixed), address_of(memory), state_at)
            is_text = start >= 0 and is_utf8(buffer, start, end)
            if start < 0:
                store_u8(out_at, at, 0x2D)
                at += 1
            elif is_text:
                begun = put_beginning(out_at, at, buffer, start, end)
                state[POSITION] = start + (begun > at)
                at = begun
            else:
                at = put_hex(out_at, at, buffer, start, end)
        if is_text:
            special = AT_END if stage == stages - 1 else IN_FIELD
            at, position, _ = escape_text(
                out_at,
                at,
                out_end - VALUE_SLACK_BYTES,
                buffer,
                state[POSITION],
                end,
                limit,
                special,
            )
            state[POSITION] = position
            if position < end:
                state[FILLED] = at
                return FULL
        state[POSITION] = -1
    state[STAGE] = stages
    state[FILLED] = at
    if at + VALUE_SLACK_BYTES > out_end:
        return FULL
    store_u8(out_at, at, 0x0A)
    state[FILLED] = at + 1
    if kind < DATA:
        state[EVENT] += 1
    else:
        state[MESSAGE] += 1
        state[EVENT] = 0
    return DONE
