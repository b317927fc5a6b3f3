"""CONTEXT events as rows of `context_v1`: the fields that clients name in various ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdp_ray_sinks.writers.json_objects import ObjectReader, chunks_of, text_of

LOCALE_BYTES: Final = 5

PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "device_type": ("device_type", "device.type"),
    "device_model": ("device_model", "device.model"),
    "operating_system": ("operating_system", "os_name", "os.name", "os"),
    "os_version": ("os_version", "os.version"),
    "app_version": ("app_version", "app.version"),
    "app_build": ("app_build", "app.build"),
    "timezone": ("timezone", "time_zone"),
    "locale": ("locale", "language"),
    "country": ("country", "location.country"),
    "region": ("region", "location.region"),
    "city": ("city", "location.city"),
}
"""Where in the payload a column's value is looked for. The first that is a string with
something in it counts, or a number or truth value, as JSON text."""

WRAPPERS: Final = ("_context", "context")
"""Objects in the payload that are searched in the same way for what is not found outside."""

_KEYS: Final = sorted({path.split(".")[0] for paths in PATHS.values() for path in paths})
# Names of fields can't begin with an underscore.
_FIELDS: Final = {f"field_{key}": key for key in [*_KEYS, *WRAPPERS]}
_Context: Final = msgspec.defstruct(
    "_Context", [(name, Any, None) for name in _FIELDS], rename=_FIELDS
)
_READER: Final = ObjectReader(_Context)

_END: Final = r"(?=[-_.@]|$)"
_TAGS: Final = re.compile(
    rf"(?P<language>[A-Za-z]{{2,3}}){_END}(?:[-_][A-Za-z]{{4}}{_END})?"
    rf"(?P<region>[-_][A-Za-z]{{2}}{_END})?"
)


def context_columns(payloads: Sequence[bytes]) -> tuple[dict[str, pa.Array], int, int]:
    """The columns of PATHS, how many payloads could not be read, and how many locales were cut."""
    parts: list[dict[str, pa.Array]] = []
    unread_count = 0
    for chunk in chunks_of(payloads):
        objects, unread = _READER.read(payloads[chunk])
        unread_count += len(unread)
        found = _columns(objects, WRAPPERS)
        parts.append({name: pc.fill_null(column, "") for name, column in found.items()})
    columns = {name: pa.concat_arrays([part[name] for part in parts]) for name in PATHS}
    columns["locale"], cut = _short_locales(columns["locale"])
    return columns, unread_count, cut


def _columns(objects: Sequence[Any], wrappers: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of PATHS, looked for in the wrappers too; null where there is nothing."""
    in_columns = zip(*map(msgspec.structs.astuple, objects), strict=True)
    values = dict(zip(_FIELDS.values(), in_columns, strict=True))
    there = {key for key, column in values.items() if column.count(None) < len(column)}
    # What is in a wrapper inside a wrapper is not looked for: clients decide how deep it is.
    inner = [_columns(list(map(_unwrapped, values[key])), ()) for key in wrappers if key in there]
    found = {}
    for name, paths in PATHS.items():
        candidates = [_texts(values, path) for path in paths if path.split(".")[0] in there]
        candidates += [columns[name] for columns in inner]
        if not candidates:
            found[name] = pa.nulls(len(objects), pa.utf8())
        elif len(candidates) == 1:
            found[name] = candidates[0]
        else:
            filled = [pc.if_else(pc.equal(one, ""), None, one) for one in candidates]
            found[name] = pc.coalesce(*filled)
    return found


def _unwrapped(value: Any) -> Any:
    return msgspec.convert(value, _Context) if type(value) is dict else _Context()


def _texts(values: Mapping[str, Sequence[Any]], path: str) -> pa.Array:
    key, _, inner = path.partition(".")
    column = values[key]
    if inner:
        column = [value.get(inner) if type(value) is dict else None for value in column]
    try:
        return pa.array(column, pa.utf8())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        none = (type(None), dict, list)
        return pa.array([None if type(v) in none else text_of(v) for v in column], pa.utf8())


def _short_locales(locales: pa.Array) -> tuple[pa.Array, int]:
    cut = int(np.count_nonzero(pc.greater(pc.binary_length(locales), LOCALE_BYTES)))
    if not cut:
        return locales, 0
    words = locales.dictionary_encode()
    short = pa.array([short_locale(word) for word in words.dictionary.to_pylist()], pa.utf8())
    return short.take(words.indices), cut


def short_locale(locale: str) -> str:
    """The locale in at most 5 bytes: itself if it fits, else language and region, else a cut.

    `zh-Hant-TW` becomes `zh-TW`, `en_US.UTF-8` `en_US`, `es-419` `es`.
    """
    if len(locale.encode()) <= LOCALE_BYTES:
        return locale
    tags = _TAGS.match(locale)
    if tags:
        both = tags["language"] + (tags["region"] or "")
        return both if len(both) <= LOCALE_BYTES else tags["language"]
    return locale.encode()[:LOCALE_BYTES].decode("utf-8", "ignore")
