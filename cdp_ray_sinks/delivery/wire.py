"""Calls as bytes: what a group or an answer looks like between processes.

One `bytes` argument beside the list of references: Ray hands bytes on as they are, while
it would take an object of ours apart with a pickler of its own, at several times the cost.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from cdp_ray_sinks.batch.batch import BatchHeader, BatchId
from cdp_ray_sinks.delivery.push import Group, Payload, is_inline

_PROTOCOL = 5


def encode_call(key: tuple[Any, ...], group: Group) -> tuple[bytes, list[Payload]]:
    """The call's bytes, inline packs included, and the references that travel beside them.

    `key` is plain data that says which call it is, such as (producer, session, number).
    """
    references = [payload for payload in group.payloads if not is_inline(payload)]
    inline = [payload if is_inline(payload) else None for payload in group.payloads]
    plain = [tuple(header) for header in group.headers]
    return pickle.dumps((key, plain, inline, group.places, group.lows), _PROTOCOL), references


def decode_call(data: bytes, references: list[Payload]) -> tuple[tuple[Any, ...], Group]:
    """The key and the group of `encode_call`. The bytes must come from a process of ours."""
    key, plain, inline, places, lows = pickle.loads(data)
    following = iter(references)
    payloads = [next(following) if pack is None else pack for pack in inline]
    headers = [BatchHeader(*values) for values in plain]
    return key, Group(headers, payloads, places, lows)


def encode_known(known: Sequence[tuple[BatchId, int]]) -> bytes:
    """Batches that are asked about, each with the state its producer knows."""
    return pickle.dumps([(*batch_id, state) for batch_id, state in known], _PROTOCOL)


def decode_known(data: bytes) -> list[tuple[BatchId, int]]:
    """The batches of `encode_known`. The bytes must come from a process of ours."""
    return [(BatchId(*batch_id), state) for *batch_id, state in pickle.loads(data)]


def encode_answer(answer: object) -> bytes:
    """An answer's bytes."""
    return pickle.dumps(answer, _PROTOCOL)


def decode_answer(data: bytes) -> Any:
    """The answer of `encode_answer`. The bytes must come from a process of ours."""
    return pickle.loads(data)
