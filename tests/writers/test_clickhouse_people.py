"""Whom an IDENTIFY event is about, and what it says of them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.writers import clickhouse_people
from cdp_ray_sinks.writers.clickhouse_context import context_columns
from cdp_ray_sinks.writers.clickhouse_people import UserIds, people_rows
from cdp_ray_sinks.writers.json_objects import CHUNK_PAYLOADS


def made_of(*payloads: bytes) -> tuple[dict[str, Any], dict[int, str]]:
    """Rows of each table as dictionaries with the event they are of, and the refused."""
    devices = pa.array([b"\x01" * 16] * len(payloads), pa.binary(16))
    times = pa.array(range(len(payloads)), pa.timestamp("ms"))
    tables, refused = people_rows(payloads, devices, times, UserIds())
    made = {}
    for table, (columns, events) in tables.items():
        assert {len(column) for column in columns.values()} == {len(events)}
        rows = pa.table(columns).to_pylist()
        made[table] = [row | {"event": int(event)} for row, event in zip(rows, events, strict=True)]
    return made, refused


def traits_of(payload: bytes) -> dict[str, str]:
    made, refused = made_of(payload)
    assert refused == {}
    return {row["trait_key"]: row["trait_value"] for row in made.get("user_traits", [])}


@pytest.mark.parametrize(
    ("payload", "email", "name", "traits"),
    [
        # Nested, as the C++ SDK writes it; flat, as Rust and JavaScript do.
        (
            b'{"user_id":"u1","traits":{"email":"a@b.co","name":"Ann","plan":"pro"}}',
            "a@b.co",
            "Ann",
            {"email": "a@b.co", "name": "Ann", "plan": "pro"},
        ),
        (
            b'{"user_id":"u1","email":"a@b.co","name":"Ann","plan":"pro","seats":5}',
            "a@b.co",
            "Ann",
            {"plan": "pro", "seats": "5"},
        ),
        (
            b'{"email":"outer@b","traits":{"email":"inner@b","name":"In"}}',
            "outer@b",
            "In",
            {"email": "inner@b", "name": "In"},
        ),
        (b'{"email":"","traits":{"email":"inner@b"}}', "inner@b", "", {"email": "inner@b"}),
        (b'{"email":"a@b","plan":"free","traits":{"plan":"pro"}}', "a@b", "", {"plan": "pro"}),
        (b'{"email":"a@b","name":"","traits":{"name":"Ann"}}', "a@b", "Ann", {"name": "Ann"}),
        (b'{"email":"a@b","name":{"first":"Ann"}}', "a@b", '{"first":"Ann"}', {}),
        (b'{"email":"a@b","name":7}', "a@b", "7", {}),
        (b'{"email":"a@b","name":null}', "a@b", "", {}),
        (b'{"email":"a@b","traits":null}', "a@b", "", {}),
        (b'{"email":"a@b","traits":{}}', "a@b", "", {}),
        (b'{"email":"a@b","traits":"gold"}', "a@b", "", {"traits": "gold"}),
        (b'{"email":"a@b","traits":["x"]}', "a@b", "", {"traits": '["x"]'}),
        (b'{"email":"a@b","email":"second@b"}', "second@b", "", {}),
        ('{"email":"Zoë@Ü.de","name":"美咲"}'.encode(), "Zoë@Ü.de", "美咲", {}),
        (rb'{"email":"a@b","name":"\u7f8e\u54b2 \ud83d"}', "a@b", "美咲 \ufffd", {}),
        (b'{"email":"a@b","":"empty key"}', "a@b", "", {"": "empty key"}),
    ],
)
def test_shapes_that_clients_send(
    payload: bytes, email: str, name: str, traits: dict[str, str]
) -> None:
    """E-mail and name from where they are, and everything else as traits."""
    made, refused = made_of(payload)
    assert refused == {}
    (user,) = made["users_v1"]
    assert (user["email"], user["name"]) == (email, name)
    assert user["user_id"] == str(uuid.uuid5(uuid.NAMESPACE_DNS, email.strip().lower()))
    assert traits_of(payload) == traits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'"text"', "text"),
        (b'""', ""),
        (rb'"a \"b\", c: {d} [e]\n\u00e9"', 'a "b", c: {d} [e]\né'),
        (b"null", "null"),
        (b"true", "true"),
        (b"false", "false"),
        (b"0", "0"),
        (b"-12", "-12"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"1.10", "1.10"),
        (b"1e400", "1e400"),
        (b"[]", "[]"),
        (b"{ }", "{}"),
        (b'[1, 2.50, "x,y", null]', '[1,2.50,"x,y",null]'),
        (b'{"a": {"b": [true, {"c": "\xc3\xa9"}]}}', '{"a":{"b":[true,{"c":"é"}]}}'),
        (b'{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_traits_of_every_type_are_text(value: bytes, text: str) -> None:
    """Strings as they are; the rest as JSON, numbers as they were written."""
    assert traits_of(b'{"email":"a@b","t":' + value + b"}") == {"t": text}
    assert traits_of(b'{"email":"a@b","traits":{"t": ' + value + b"}}") == {"t": text}
    assert traits_of(b'{"email":"a@b","s":"x","t":' + value + b',"u":null}') == {
        "s": "x",
        "t": text,
        "u": "null",
    }


def test_traits_belong_to_their_users() -> None:
    """Also where some events have none, are refused, or lie in another chunk."""
    count = 2 * CHUNK_PAYLOADS + 7
    payloads = [
        b"{}" if place % 5 == 3 else json.dumps(
            {"email": f"u{place}", **{f"k{n}": place for n in range(place % 4)}}
        ).encode()
        for place in range(count)
    ]  # fmt: skip
    made, refused = made_of(*payloads)
    wanted = [place for place in range(count) if place % 5 != 3]
    assert list(refused) == [place for place in range(count) if place % 5 == 3]
    assert [row["event"] for row in made["users_v1"]] == wanted
    assert [row["email"] for row in made["users_v1"]] == [f"u{place}" for place in wanted]
    ids = {row["user_id"]: row["event"] for row in made["users_v1"]}
    assert [(ids[row["user_id"]], row["event"]) for row in made["user_devices"]] == [
        (place, place) for place in wanted
    ]
    found = [
        (row["event"], ids[row["user_id"]], row["trait_key"], row["trait_value"])
        for row in made["user_traits"]
    ]
    assert found == [
        (place, place, f"k{n}", str(place)) for place in wanted for n in range(place % 4)
    ]
    for table, column in (("users_v1", "updated_at"), ("user_traits", "updated_at")):
        times = [row[column].microsecond // 1000 + 1000 * row[column].second for row in made[table]]
        assert times == [row["event"] for row in made[table]]


def test_nobody_gives_no_tables() -> None:
    """No events, or only refused ones, leave every table out."""
    assert made_of() == ({}, {})
    assert made_of(b"{}", b"") == ({}, {0: "no e-mail", 1: "no payload"})


@given(emails=st.lists(st.text(min_size=1), max_size=20))
def test_a_user_id_is_that_of_the_address_in_lower_case(emails: list[str]) -> None:
    """Version 5 in the DNS namespace; spaces around it and case make no difference."""
    ids = UserIds()
    expected = [str(uuid.uuid5(uuid.NAMESPACE_DNS, email.strip().lower())) for email in emails]
    assert ids.of(emails) == expected
    assert ids.of(emails) == expected
    assert ids.of([f"  {email.upper()}\n" for email in ["a@b.co"]]) == ids.of(["A@B.co"])


def test_a_known_user_id() -> None:
    """The number that other software makes of the same address."""
    assert UserIds().of([" User@Example.COM "]) == [
        str(uuid.uuid5(uuid.NAMESPACE_DNS, "user@example.com"))
    ]
    assert UserIds().of(["python.org"]) == ["886313e1-3b8a-5372-9b90-0c9aee199e5d"]


def test_what_user_ids_remember_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses come, and however long they are."""
    monkeypatch.setattr(clickhouse_people, "USER_IDS_MAX", 10)
    ids = UserIds()
    emails = [f"user{place}@example.com" for place in range(35)] + ["x" * 1_000_000]
    found = ids.of(emails)
    assert found == [str(uuid.uuid5(uuid.NAMESPACE_DNS, email)) for email in emails]
    assert len(ids._known) <= 10
    assert max(map(len, ids._known)) < 300
    assert ids.of(emails) == found


@pytest.mark.parametrize(
    ("name", "email", "traits"),
    [
        ("node_sdk_0.3.2_events.http", " E2E@Tell.App ", {"plan": "pro"}),
        ("browser_sdk_0.3.2_events.http", "a@b.co", {}),
    ],
)
def test_what_the_javascript_clients_say_of_people(
    captures: Path, name: str, email: str, traits: dict[str, str]
) -> None:
    """Their flat events, without what a frame has in fields of its own."""
    fields = {"type", "event", "service", "device_id", "session_id", "timestamp"}
    body = (captures / name).read_bytes().partition(b"\r\n\r\n")[2]
    lines = [json.loads(line) for line in body.splitlines()]
    (event,) = [line for line in lines if line["type"] == "identify"]
    payload = json.dumps({key: value for key, value in event.items() if key not in fields})
    made, refused = made_of(payload.encode())
    assert refused == {}
    assert made["users_v1"][0]["email"] == email
    assert traits_of(payload.encode()) == traits


def test_no_depth_is_too_much() -> None:
    """However deep a trait is nested, it is its text, or its event is refused; nothing crashes."""
    found = set()
    for depth in [*range(0, 900, 100), *range(900, 1100, 1), 50_000]:
        value = "[" * depth + "0" + "]" * depth
        for form in ('{"email":"a@b","t":%s}', '{"email":"a@b","traits":{"t":%s}}'):
            made, refused = made_of((form % value).encode(), b'{"email":"b@c"}')
            assert [row["email"] for row in made["users_v1"]][-1] == "b@c"
            assert refused in ({}, {0: "payload is not JSON"})
            assert refused or made["user_traits"][0]["trait_value"] == value
            found.add(bool(refused))
        context, unread, _ = context_columns([b'{"context":{"os":' + value.encode() + b"}}"])
        assert (unread, context["os_version"].to_pylist()) in [(0, [""]), (1, [""])]
    assert found == {True, False}


def test_many_traits_are_as_many_rows() -> None:
    """One hostile event costs its own rows and no more."""
    traits = ",".join(f'"{place}":{place}' for place in range(200_000))
    made, _ = made_of(b'{"email":"a@b"}', f'{{"email":"b@c","traits":{{{traits}}}}}'.encode())
    assert len(made["user_traits"]) == 200_000
    assert len({row["user_id"] for row in made["user_traits"]}) == 1
    assert np.unique([row["event"] for row in made["user_traits"]]).tolist() == [1]
