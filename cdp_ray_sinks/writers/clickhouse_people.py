"""IDENTIFY events as rows of `users_v1`, `user_devices` and `user_traits`.

Clients send `{"user_id", "email", "name", "traits": {…}}` or all of it flat. The e-mail is
what tells people apart, so an event without one makes no row; `user_id` of the payload is not
used. Traits are all keys of `traits`, and all others of the payload but `user_id`, `email` and
`name`; where both have a key, `traits` counts. A trait that is no string is its JSON text.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdp_ray_sinks.writers.json_objects import ObjectReader, chunks_of, text_of

NO_EMAIL: Final = "no e-mail"
USER_IDS_MAX: Final = 65_536
EMAIL_CHARACTERS_MAX: Final = 254
"""Longer ones are not remembered; no mail could be sent to them."""

_NAMESPACE: Final = uuid.NAMESPACE_DNS.bytes
_READER: Final = ObjectReader(dict[str, Any])


class UserIds:
    """User ids of e-mail addresses; those of the last USER_IDS_MAX or fewer are remembered."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, emails: Sequence[str]) -> list[str]:
        """UUID version 5, in the DNS namespace, of each address trimmed and in lower case."""
        found = list(map(self._known.get, emails))
        if None not in found:
            return found  # type: ignore[return-value]  # just checked
        return [
            self._new(email) if user_id is None else user_id
            for email, user_id in zip(emails, found, strict=True)
        ]

    def _new(self, email: str) -> str:
        name = email.strip().lower().encode()
        digest = hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).digest()
        user_id = str(uuid.UUID(bytes=digest[:16], version=5))
        if len(email) <= EMAIL_CHARACTERS_MAX:
            if len(self._known) >= USER_IDS_MAX:
                self._known.clear()
            self._known[email] = user_id
        return user_id


class TableColumns(NamedTuple):
    """Columns of one table, and for each row the IDENTIFY event that it comes from."""

    columns: dict[str, Any]
    events: NDArray[np.int64]


@dataclass(slots=True)
class _People:
    """What a run of events says, before it is made into tables."""

    events: list[int] = field(default_factory=list)
    emails: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    traits: list[dict[str, Any]] = field(default_factory=list)


def people_rows(
    payloads: Sequence[bytes],
    devices: pa.Array,
    times: pa.Array,
    user_ids: UserIds,
) -> tuple[dict[str, TableColumns], dict[int, str]]:
    """The rows of IDENTIFY events by table, and why events, by their place, make none.

    `devices` are 16 bytes each, zeros for none. Tables without rows are left out.
    """
    refused: dict[int, str] = {}
    found: dict[str, list[TableColumns]] = {}
    for chunk in chunks_of(payloads):
        people = _people(payloads[chunk], chunk.start, refused)
        if people.events:
            for table, rows in _tables(people, devices, times, user_ids).items():
                found.setdefault(table, []).append(rows)
    return {table: _joined(parts) for table, parts in found.items()}, refused


def _people(payloads: Sequence[bytes], start: int, refused: dict[int, str]) -> _People:
    objects, unread = _READER.read(payloads)
    people = _People()
    for event, found in enumerate(objects, start):
        email, name = found.pop("email", None), found.pop("name", None)
        found.pop("user_id", None)
        nested = found.pop("traits", None)
        if type(nested) is dict:
            email = email if _is_filled(email) else nested.get("email")
            name = nested.get("name") if name is None or name == "" else name
            found.update(nested)
        elif nested is not None:
            found["traits"] = nested
        if not _is_filled(email):
            refused[event] = unread.get(event - start, NO_EMAIL)
            continue
        people.events.append(event)
        people.emails.append(email)
        people.names.append("" if name is None else text_of(name))
        people.traits.append(found)
    return people


def _is_filled(value: Any) -> bool:
    return type(value) is str and bool(value) and not value.isspace()


def _tables(
    people: _People, devices: pa.Array, times: pa.Array, user_ids: UserIds
) -> dict[str, TableColumns]:
    events = np.array(people.events, np.int64)
    ids, emails = pa.array(user_ids.of(people.emails)), pa.array(people.emails)
    times, devices = times.take(pa.array(events)), devices.take(pa.array(events))
    made = {
        "users_v1": TableColumns(
            {"user_id": ids, "email": emails, "name": pa.array(people.names), "updated_at": times},
            events,
        )
    }
    there = np.frombuffer(devices.buffers()[1], np.uint64)[2 * devices.offset :]
    has_device = there[: 2 * len(devices)].reshape(-1, 2).any(axis=1)
    if has_device.any():
        mask = pa.array(has_device)
        columns = {"user_id": ids, "device_id": devices, "linked_at": times}
        made["user_devices"] = TableColumns(
            {name: column.filter(mask) for name, column in columns.items()}, events[has_device]
        )
    counts = np.fromiter(map(len, people.traits), np.int64, len(people.traits))
    if counts.any():
        of = np.repeat(np.arange(len(events)), counts)
        columns = {
            "user_id": ids.take(pa.array(of)),
            "trait_key": pa.array(list(chain.from_iterable(people.traits)), pa.utf8()),
            "trait_value": _texts(list(chain.from_iterable(map(dict.values, people.traits)))),
            "updated_at": times.take(pa.array(of)),
        }
        made["user_traits"] = TableColumns(columns, events[of])
    return made


def _texts(values: list[Any]) -> pa.Array:
    try:
        return pc.fill_null(pa.array(values, pa.utf8()), "null")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([value if type(value) is str else text_of(value) for value in values])


def _joined(parts: Sequence[TableColumns]) -> TableColumns:
    if len(parts) == 1:
        return parts[0]
    columns = {
        name: pa.concat_arrays([part.columns[name] for part in parts]) for name in parts[0].columns
    }
    return TableColumns(columns, np.concatenate([part.events for part in parts]))
