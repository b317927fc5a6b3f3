"""CONTEXT events as rows of `context_v1`: the fields that clients name in various ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cdp_ray_sinks.writers.json_objects import JsonObject, text_of

LOCALE_BYTES: Final = 5
_TAGS: Final = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?=[-_.@]|$)"
    r"(?:[-_][A-Za-z]{4}(?=[-_.@]|$))?"
    r"(?P<region>[-_][A-Za-z]{2}(?=[-_.@]|$))?"
)

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "device_type": ("device_type", "device.type"),
    "device_model": ("device_model", "device.model", "model"),
    "operating_system": ("operating_system", "os_name", "os.name", "os"),
    "os_version": ("os_version", "os.version"),
    "app_version": ("app_version", "app.version"),
    "app_build": ("app_build", "app.build"),
    "timezone": ("timezone", "time_zone"),
    "locale": ("locale", "language"),
    "country": ("country", "location.country", "country_code"),
    "region": ("region", "location.region"),
    "city": ("city", "location.city"),
}
"""Where the value of each column is looked for; the first that is there counts."""


def context_columns(objects: Sequence[JsonObject | str]) -> tuple[dict[str, Any], int]:
    """The columns of ALIASES for those payloads, and how many locales had to be cut."""
    columns: dict[str, Any] = {name: [] for name in ALIASES}
    for found in objects:
        for name, paths in ALIASES.items():
            columns[name].append("" if isinstance(found, str) else _value(found, paths))
    locales = [short_locale(text) for text in columns["locale"]]
    cut = sum(len(text.encode()) > LOCALE_BYTES for text in columns["locale"])
    columns["locale"] = locales
    return columns, cut


def _value(found: JsonObject, paths: Sequence[str]) -> str:
    for path in paths:
        value: Any = found
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, dict | list):
            return text_of(value)
    return ""


def short_locale(locale: str) -> str:
    """The locale in at most 5 bytes: itself if it fits, else language and region, else a cut.

    `zh-Hant-TW` becomes `zh-TW`, `en_US.UTF-8` `en_US`, `es-419` `es`.
    """
    if len(locale.encode()) <= LOCALE_BYTES:
        return locale
    tags = re.match(
        r"([A-Za-z]{2,3})(?:[-_][A-Za-z]{4})?(?:([-_][A-Za-z]{2})(?![A-Za-z0-9]))?", locale
    )
    if tags:
        both = tags[1] + (tags[2] or "")
        if re.match(r"[-_.@]|$", locale[len(tags[1]) :]):
            return both if len(both) <= LOCALE_BYTES else tags[1]
    return locale.encode()[:LOCALE_BYTES].decode("utf-8", "ignore")
