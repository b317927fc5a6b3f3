"""The table of api keys: SipHash as published, rows that depend on a secret, whole compares."""

from __future__ import annotations

import numpy as np

from cdp_ray_sinks.batch.kernels.key_table import hash_key, key_table_of

PUBLISHED = 0x3F2ACC7F57C29BDB
"""SipHash-2-4 of bytes 00..0f under the key 00..0f, from the reference implementation."""


def words(content: bytes) -> tuple[np.uint64, np.uint64]:
    low, high = np.frombuffer(content, "<u8")
    return np.uint64(low), np.uint64(high)


def siphash(content: bytes, secret: bytes) -> int:
    """The same in plain Python, for any length."""
    mask = 2**64 - 1
    k0, k1 = int.from_bytes(secret[:8], "little"), int.from_bytes(secret[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D]
    v += [k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & mask

    def mix(rounds: int) -> None:
        for _ in range(rounds):
            for a, b, c, d, first, second in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
                v[a] = (v[a] + v[b]) & mask
                v[b] = rotate(v[b], first) ^ v[a]
                v[a] = rotate(v[a], 32)
                v[c] = (v[c] + v[d]) & mask
                v[d] = rotate(v[d], second) ^ v[c]

    padded = content + bytes(7 - len(content) % 8) + bytes([len(content) & 255])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        mix(2)
        v[0] ^= word
    v[2] ^= 0xFF
    mix(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_hash_is_siphash_2_4() -> None:
    """Kernel and plain Python give the published value, and the same for random bytes."""
    counted = bytes(range(16))
    assert siphash(counted, counted) == PUBLISHED
    assert int(hash_key(*words(counted), *words(counted))) == PUBLISHED
    random = np.random.default_rng(1)
    for _ in range(200):
        key, secret = random.bytes(16), random.bytes(16)
        assert int(hash_key(*words(key), *words(secret))) == siphash(key, secret)


def test_where_a_key_lies_depends_on_a_secret_of_the_table() -> None:
    """Two tables of the same keys differ in their rows, so a walk tells nothing of a key."""
    keys = np.random.default_rng(3).bytes(16 * 200)
    one, other = (key_table_of(keys, list(range(1, 201))) for _ in range(2))
    assert np.any(one[-1, :2] != other[-1, :2])
    assert one[-1, 2] == other[-1, 2] == 0
    rows = [np.flatnonzero(table[:-1, 2]).tolist() for table in (one, other)]
    assert rows[0] != rows[1]
    assert sorted(map(tuple, one[rows[0]])) == sorted(map(tuple, other[rows[1]]))
