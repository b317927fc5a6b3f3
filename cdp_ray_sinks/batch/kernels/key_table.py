"""The table of api keys, looked up without telling a guesser how near a guess was.

Open addressing. Where a key's row is depends on SipHash-2-4 under a secret drawn anew for
each table, so the rows that a guess walks over say nothing about the keys in them; a row is
compared whole, in the same time wherever it differs. SipHash: Aumasson and Bernstein, 2012.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.cache import readonly
from cdp_ray_sinks.batch.kernels.memory import address_of, load_u64

_KEY_BYTES = 16
_KEY_LOW, _KEY_HIGH, _KEY_WORKSPACE = 0, 1, 2
KEY_TABLE_COLUMNS = 3


@njit(nogil=True, cache=True, forceinline=True)
def _rotated(value: Any, bits: int) -> Any:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@njit(nogil=True, cache=True, forceinline=True)
def _round(v0: Any, v1: Any, v2: Any, v3: Any) -> tuple[Any, Any, Any, Any]:
    v0 += v1
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 += v3
    v3 = _rotated(v3, 16) ^ v2
    v0 += v3
    v3 = _rotated(v3, 21) ^ v0
    v2 += v1
    v1 = _rotated(v1, 17) ^ v2
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@njit(nogil=True, cache=True)
def hash_key(low: Any, high: Any, secret_low: Any, secret_high: Any) -> Any:
    """SipHash-2-4 of 16 bytes, given as two little-endian uint64, under a 16-byte secret."""
    v0 = secret_low ^ np.uint64(0x736F6D6570736575)
    v1 = secret_high ^ np.uint64(0x646F72616E646F6D)
    v2 = secret_low ^ np.uint64(0x6C7967656E657261)
    v3 = secret_high ^ np.uint64(0x7465646279746573)
    for word in (low, high, np.uint64(_KEY_BYTES << 56)):
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    v2 ^= np.uint64(0xFF)
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


@njit(nogil=True, cache=True)
def find_workspace(buffer: int, key: int, key_table: int, row_count: int) -> Any:
    """The workspace of the 16 key bytes at `key`, 0 when unknown.

    `buffer` and `key_table` (of `row_count` rows, see `key_table_of`) are addresses.
    """
    capacity = row_count - 1
    low, high = load_u64(buffer, key), load_u64(buffer, key + 8)
    secret = 8 * KEY_TABLE_COLUMNS * capacity
    hashed = hash_key(low, high, load_u64(key_table, secret), load_u64(key_table, secret + 8))
    place: Any = np.int64(hashed & np.uint64(capacity - 1))
    for _ in range(capacity):
        row = 8 * KEY_TABLE_COLUMNS * place
        workspace = load_u64(key_table, row + 8 * _KEY_WORKSPACE)
        if workspace == 0:
            break
        difference = (load_u64(key_table, row) ^ low) | (load_u64(key_table, row + 8) ^ high)
        if difference == 0:
            return np.int64(workspace)
        place = (place + 1) & (capacity - 1)
    return np.int64(0)


@njit(nogil=True, cache=True)
def workspace_of_key(key: Any, key_table: Any) -> Any:
    """`find_workspace` of the 16 bytes of an array, in a table of `key_table_of`."""
    return find_workspace(address_of(key), 0, address_of(key_table), len(key_table))


def key_array(key: bytes) -> NDArray[np.uint8]:
    """A key of 16 bytes as `workspace_of_key` takes it; ValueError for any other length."""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a key has {_KEY_BYTES} bytes, not {len(key)}")
    return readonly(np.frombuffer(key, np.uint8))


@njit(nogil=True, cache=True)
def _fill_key_table(keys: Any, workspaces: Any, key_table: Any) -> None:
    capacity = len(key_table) - 1
    secret_low, secret_high = key_table[capacity, _KEY_LOW], key_table[capacity, _KEY_HIGH]
    for row in range(len(workspaces)):
        low, high = load_u64(keys, 16 * row), load_u64(keys, 16 * row + 8)
        hashed = hash_key(low, high, secret_low, secret_high)
        place = np.int64(hashed & np.uint64(capacity - 1))
        while key_table[place, _KEY_WORKSPACE] != 0:
            place = (place + 1) & (capacity - 1)
        key_table[place, _KEY_LOW] = low
        key_table[place, _KEY_HIGH] = high
        key_table[place, _KEY_WORKSPACE] = workspaces[row]


def key_table_of(keys: bytes, workspaces: list[int]) -> NDArray[np.uint64]:
    """The look-up table that `check_envelopes` takes; keys of 16 B each, back to back.

    A power of two of rows (key as two words, workspace), at most a quarter of them taken,
    then one with the secret of the hash. Workspaces must not be 0, which stands for an
    empty row.
    """
    if len(keys) != _KEY_BYTES * len(workspaces) or not all(workspaces):
        raise ValueError("each key is 16 bytes and has a workspace other than 0")
    capacity = 16
    while capacity < 4 * len(workspaces):
        capacity *= 2
    key_table = np.zeros((capacity + 1, KEY_TABLE_COLUMNS), np.uint64)
    key_table[capacity, :2] = np.frombuffer(secrets.token_bytes(16), np.uint64)
    flat = np.frombuffer(keys, np.uint8)
    _fill_key_table(readonly(flat), np.array(workspaces, np.uint64), key_table)
    return key_table
