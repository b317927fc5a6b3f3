"""IDENTIFY events as rows of `users_v1`, `user_devices` and `user_traits`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdp_ray_sinks.writers.json_objects import JsonObject, text_of

NO_EMAIL: Final = "without an e-mail"
_OWN_KEYS: Final = frozenset({"user_id", "email", "name"})


class UserIds:
    """User ids of e-mail addresses, remembered for the last ones."""

    def of(self, email: str) -> str:
        """UUID version 5 of the address, trimmed and in lower case, in the DNS namespace."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, email.strip().lower()))


@dataclass(frozen=True, slots=True)
class People:
    """Columns of each table with the IDENTIFY each row is of; and which gave none, and why."""

    tables: Mapping[str, tuple[dict[str, Any], NDArray[np.int64]]]
    refused: Sequence[tuple[int, str]]


def people_columns(
    objects: Sequence[JsonObject | str],
    devices: pa.Array,
    times: NDArray[np.int64],
    user_ids: UserIds,
) -> People:
    """The rows of IDENTIFY events, given the objects of their payloads."""
    refused: list[tuple[int, str]] = []
    users: list[tuple[int, str, str, str]] = []
    traits: list[tuple[int, str, str, str]] = []
    for row, found in enumerate(objects):
        if isinstance(found, str):
            refused.append((row, found))
            continue
        nested = found.get("traits")
        own = {key: value for key, value in found.items() if key not in _OWN_KEYS}
        if isinstance(nested, dict):
            del own["traits"]
            own |= nested
        else:
            nested = {}
        email = _first_text(found.get("email"), nested.get("email"))
        if not email:
            refused.append((row, NO_EMAIL))
            continue
        user_id = user_ids.of(email)
        users.append((row, user_id, email, _first_text(found.get("name"), nested.get("name"))))
        traits += [(row, user_id, text_of(key), text_of(value)) for key, value in own.items()]
    user_rows = np.array([row for row, *_ in users], np.int64)
    trait_rows = np.array([row for row, *_ in traits], np.int64)
    ids = [user_id for _, user_id, *_ in users]
    linked = [
        (place, row)
        for place, row in enumerate(user_rows.tolist())
        if any(devices[row].as_py() or b"")
    ]
    device_rows = np.array([row for _, row in linked], np.int64)
    return People(
        {
            "users_v1": (
                {
                    "user_id": ids,
                    "email": [text_of(email) for _, _, email, _ in users],
                    "name": [text_of(name) for *_, name in users],
                    "updated_at": times[user_rows],
                },
                user_rows,
            ),
            "user_devices": (
                {
                    "user_id": [ids[place] for place, _ in linked],
                    "device_id": devices.take(pa.array(device_rows)),
                    "linked_at": times[device_rows],
                },
                device_rows,
            ),
            "user_traits": (
                {
                    "user_id": [user_id for _, user_id, _, _ in traits],
                    "trait_key": [key for _, _, key, _ in traits],
                    "trait_value": [value for *_, value in traits],
                    "updated_at": times[trait_rows],
                },
                trait_rows,
            ),
        },
        refused,
    )


def _first_text(*values: Any) -> str:
    """The first that is a text with something in it, else an empty one."""
    return next((value for value in values if isinstance(value, str) and value.strip()), "")
