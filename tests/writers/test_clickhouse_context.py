"""The fields of a CONTEXT event, by whatever names clients give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.writers.clickhouse_context import (
    PATHS,
    context_columns,
    short_locale,
)
from cdp_ray_sinks.writers.json_objects import CHUNK_PAYLOADS


def row_of(found: Any) -> dict[str, str]:
    """The columns that are filled for one payload."""
    payload = found if isinstance(found, bytes) else json.dumps(found).encode()
    columns, unread, _ = context_columns([payload])
    assert unread == 0
    assert list(columns) == list(PATHS)
    return {name: column.to_pylist()[0] for name, column in columns.items() if column[0].as_py()}


@pytest.mark.parametrize(("column", "path"), [(c, p) for c, paths in PATHS.items() for p in paths])
def test_every_name_leads_to_its_column(column: str, path: str) -> None:
    """Flat or in an object, outside or in the wrappers that collectors put around."""
    value: Any = "v"
    for key in reversed(path.split(".")):
        value = {key: value}
    assert row_of(value) == {column: "v"}
    assert row_of({"_context": value}) == {column: "v"}
    assert row_of({"context": value, "other": 1}) == {column: "v"}
    assert row_of(value | {"_context": value | {column: "later"}})[column] == "v"


@pytest.mark.parametrize("column", PATHS)
def test_the_first_name_that_says_something_counts(column: str) -> None:
    """An empty text or null does not hide the next name; the wrappers come last."""
    first, second = PATHS[column][0], PATHS[column][1] if len(PATHS[column]) > 1 else None
    assert row_of({first: "one", "_context": {first: "two"}}) == {column: "one"}
    assert row_of({first: "", "_context": {first: "two"}}) == {column: "two"}
    assert row_of({first: None, "context": {first: "three"}}) == {column: "three"}
    assert row_of({"_context": {first: "two"}, "context": {first: "three"}}) == {column: "two"}
    if second and "." not in second:
        assert row_of({first: "one", second: "two"}) == {column: "one"}
        assert row_of({first: "", second: "two"}) == {column: "two"}


def test_wrappers_are_opened_once() -> None:
    """However deep a client nests them."""
    assert row_of({"context": {"_context": {"os": "deep"}, "city": "x"}}) == {"city": "x"}
    deep = b'{"_context":' * 400 + b'{"os":"deep"}' + b"}" * 400
    assert row_of(deep[:-1] + b',"city":"x"}') == {"city": "x"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'"17"', "17"),
        (b"17", "17"),
        (b"17.10", "17.10"),
        (b"true", "true"),
        (b"null", ""),
        (b"[1]", ""),
        (b'{"a":1}', ""),
        (b'""', ""),
        (b'"\xff"', "\ufffd"),
        (rb'"\ud83d"', "\ufffd"),
        ('"Saint-Étienne"'.encode(), "Saint-Étienne"),
        (b'"' + b"x" * 100_000 + b'"', "x" * 100_000),
    ],
)
def test_a_value_that_is_no_string(value: bytes, text: str) -> None:
    """Numbers and truth values are their text; objects and lists are no value of a column."""
    expected = {"os_version": text} if text else {}
    assert row_of(b'{"os_version":' + value + b"}") == expected
    columns, _, _ = context_columns([b'{"os_version":"1"}', b'{"os_version":' + value + b"}"])
    assert columns["os_version"].to_pylist() == ["1", text]


@pytest.mark.parametrize("payload", [b"", b"os=iOS", b"[]", b'"x"', b"{", b"\xff"])
def test_what_is_no_object_is_empty_and_counted(payload: bytes) -> None:
    """Its neighbours are read."""
    columns, unread, _ = context_columns([b'{"os":"a"}', payload, b'{"os":"b"}'])
    assert columns["operating_system"].to_pylist() == ["a", "", "b"]
    assert unread == 1


def test_rows_stay_in_order_over_chunks() -> None:
    """Each row has its own values, in columns that some chunks do not have at all."""
    count = 2 * CHUNK_PAYLOADS + 5
    payloads = [
        json.dumps({"city": str(place)} if place < CHUNK_PAYLOADS else {"region": place}).encode()
        for place in range(count)
    ]
    columns, _, _ = context_columns(payloads)
    assert columns["city"].to_pylist() == [
        str(place) if place < CHUNK_PAYLOADS else "" for place in range(count)
    ]
    assert columns["region"].to_pylist() == [
        "" if place < CHUNK_PAYLOADS else str(place) for place in range(count)
    ]
    assert {column.null_count for column in columns.values()} == {0}


@pytest.mark.parametrize(
    ("locale", "short"),
    [
        ("", ""),
        ("en", "en"),
        ("en-US", "en-US"),
        ("fr_FR", "fr_FR"),
        ("zh-Hant-TW", "zh-TW"),
        ("zh_Hant_TW", "zh_TW"),
        ("zh-Hant", "zh"),
        ("en_US.UTF-8", "en_US"),
        ("de_DE@euro", "de_DE"),
        ("en-US-posix", "en-US"),
        ("es-419", "es"),
        ("fil-PH", "fil"),
        ("sr-Latn-RS", "sr-RS"),
        ("de-1996", "de"),
        ("ca-valencia", "ca"),
        ("english", "engli"),
        ("C.UTF-8", "C.UTF"),
        ("日本語", "日"),
        ("ääää", "ää"),
        ("en\0\0\0\0", "en\0\0\0"),
        ("x" * 100_000, "xxxxx"),
    ],
)
def test_a_locale_fits_into_five_bytes(locale: str, short: str) -> None:
    """Language and region where they can be told, else as much as fits, never half a letter."""
    assert short_locale(locale) == short
    columns, _, cut = context_columns([b"{}", json.dumps({"locale": locale}).encode()])
    assert columns["locale"].to_pylist() == ["", short]
    assert cut == (len(locale.encode()) > 5)


def test_what_the_browser_client_says(captures: Path) -> None:
    """Its names for things, in the event it sends by itself."""
    body = (captures / "browser_sdk_0.3.2_events.http").read_bytes().partition(b"\r\n\r\n")[2]
    event = json.loads(body.splitlines()[0])
    assert event["type"] == "context"
    assert row_of(event) == {
        "device_type": "desktop",
        "operating_system": "Linux",
        "locale": "en-US",
        "timezone": "UTC",
    }
