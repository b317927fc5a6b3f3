"""Batches become the rows of six tables; what makes no row is told."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.kernels.names import NAMES_MAX
from cdp_ray_sinks.bench.material import synthetic_batches
from cdp_ray_sinks.writers.clickhouse_rows import LEVELS, RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import (
    SCHEMAS,
    TIME_MS_MAX,
    deserialise,
    serialise,
    split_by_month,
)

DEVICE, SESSION, NIL = b"\x11" * 16, b"\x22" * 16, bytes(16)
TIME_MS = 1_700_000_000_000
TIME = datetime.datetime(2023, 11, 14, 22, 13, 20)  # noqa: DTZ001 - columns have no zone
TRACK, IDENTIFY, GROUP, ALIAS, ENRICH, CONTEXT = 1, 2, 3, 4, 5, 6


def event(kind: int, payload: bytes | None = b"{}", **more: Any) -> tuple[Any, ...]:
    """A row of `build_rows`, in the SDKs' layout."""
    values = {"time": TIME_MS, "device": DEVICE, "session": SESSION, "name": b"n"} | more
    return (
        ("u8", kind),
        ("u64", values["time"]),
        b"service",
        values["device"],
        values["session"],
        values["name"],
        payload,
    )


def rows_of(made: Any, table: str) -> list[dict[str, Any]]:
    """The rows of one table; they are valid Arrow of its schema."""
    found = made.tables[table]
    found.rows.validate(full=True)
    assert found.table == table
    assert found.rows.schema == SCHEMAS[table]
    assert {len(found.batches), len(found.messages), len(found.entries)} == {found.rows.num_rows}
    rows: list[dict[str, Any]] = found.rows.to_pylist()
    return rows


def made_of(oracle: Any, *events: tuple[Any, ...], **options: Any) -> Any:
    return RowMaker(**options).rows_of([oracle.batch([oracle.build_rows(events)])])


def test_track_is_a_row_of_events(oracle: Any) -> None:
    """Time, name, ids, address, and the payload twice."""
    payload = b'{"n":1,"url":"/home"}'
    made = made_of(oracle, event(TRACK, payload, name=b"Page Viewed"))
    assert list(made.tables) == ["events_v1"]
    assert rows_of(made, "events_v1") == [
        {
            "timestamp": TIME,
            "event_name": "Page Viewed",
            "device_id": DEVICE,
            "session_id": SESSION,
            "properties": payload,
            "_raw": payload,
            "source_ip": oracle.source_ip,
        }
    ]
    assert made.problems == []


def test_what_a_track_lacks_is_empty(oracle: Any) -> None:
    """An absent id is nil, an absent name or payload empty; never null."""
    nothing = event(TRACK, b"", device=None, session=None, name=None)
    short = event(TRACK, b"{}", device=b"\x01" * 15)
    (row, other) = rows_of(made_of(oracle, nothing, short), "events_v1")
    assert (row["device_id"], row["session_id"], row["event_name"]) == (NIL, NIL, "")
    assert (row["properties"], row["_raw"]) == (b"", b"")
    assert (other["device_id"], other["event_name"]) == (NIL, "n")
    bare = oracle.build_rows([[("u8", TRACK), ("u64", 5)]])
    made = RowMaker().rows_of([oracle.batch([bare])])
    (row,) = rows_of(made, "events_v1")
    assert (row["event_name"], row["properties"], row["device_id"]) == ("", b"", NIL)
    assert made.tables["events_v1"].rows["event_name"].null_count == 0


def test_an_empty_name_shares_its_entry_with_absent_ones(oracle: Any) -> None:
    """The dictionary of names holds each once."""
    events = [event(TRACK, name=name) for name in (b"", None, b"x", None, b"")]
    column = made_of(oracle, *events).tables["events_v1"].rows["event_name"]
    assert column.to_pylist() == ["", "", "x", "", ""]
    assert sorted(column.dictionary.to_pylist()) == ["", "x"]


@pytest.mark.parametrize(
    "payload", [b"not json", b"\xff\xfe\x00", "Zoë".encode(), b"x" * 3_000_000, b'{"a":' * 10_000]
)
def test_the_payload_of_a_track_is_kept_byte_for_byte(oracle: Any, payload: bytes) -> None:
    """It is not parsed, whatever it is, and goes through the bytes of the block."""
    made = made_of(oracle, event(TRACK, payload))
    rows = deserialise(serialise(made.tables["events_v1"].rows)).to_pylist()
    assert rows[0]["properties"] == rows[0]["_raw"] == payload
    assert made.problems == []


def test_identify_goes_to_three_tables(oracle: Any) -> None:
    """User, device and traits, all at the event's time."""
    payload = b'{"user_id":"u","email":" Ann@B.co ","name":"Ann","traits":{"plan":"pro","seats":5}}'
    made = made_of(oracle, event(IDENTIFY, payload))
    user_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, "ann@b.co"))
    assert rows_of(made, "users_v1") == [
        {"user_id": user_id, "email": " Ann@B.co ", "name": "Ann", "updated_at": TIME}
    ]
    assert rows_of(made, "user_devices") == [
        {"user_id": user_id, "device_id": DEVICE, "linked_at": TIME}
    ]
    assert [(r["trait_key"], r["trait_value"]) for r in rows_of(made, "user_traits")] == [
        ("plan", "pro"),
        ("seats", "5"),
    ]
    assert {(r["user_id"], r["updated_at"]) for r in rows_of(made, "user_traits")} == {
        (user_id, TIME)
    }
    assert set(made.tables) == {"users_v1", "user_devices", "user_traits"}


@pytest.mark.parametrize("device", [None, NIL, b"\x01" * 17])
def test_identify_without_a_device_links_none(oracle: Any, device: bytes | None) -> None:
    """An absent id, one of zeros and one of another length are no device."""
    made = made_of(oracle, event(IDENTIFY, b'{"email":"a@b"}', device=device))
    assert set(made.tables) == {"users_v1"}


def test_devices_stay_with_their_users(oracle: Any) -> None:
    """An id counts if any of its bytes is not zero, in the first half or the second."""
    first, last = b"\x01" + bytes(15), bytes(15) + b"\x01"
    devices = [None, first, NIL, last, None]
    events = [
        event(IDENTIFY, b'{"email":"u%d"}' % place, device=device)
        for place, device in enumerate(devices)
    ]
    made = made_of(oracle, event(TRACK), *events)
    users = {row["user_id"]: row["email"] for row in rows_of(made, "users_v1")}
    links = [(users[r["user_id"]], r["device_id"]) for r in rows_of(made, "user_devices")]
    assert links == [("u1", first), ("u3", last)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{}", "no e-mail"),
        (b'{"user_id":"u1","name":"Ann"}', "no e-mail"),
        (b'{"email":""}', "no e-mail"),
        (b'{"email":" \\t "}', "no e-mail"),
        (b'{"email":null,"traits":{"email":""}}', "no e-mail"),
        (b'{"email":5}', "no e-mail"),
        (b'{"traits":{"contact":{"email":"a@b"}}}', "no e-mail"),
        (b'{"note":"\\"email\\":\\"a@b\\""}', "no e-mail"),
        (b"", "no payload"),
        (b"email=a@b", "payload is not JSON"),
        (b'["a@b"]', "payload is JSON, but not an object"),
    ],
)
def test_identify_without_an_email_is_a_problem(oracle: Any, payload: bytes, reason: str) -> None:
    """It is named, with its place; what stands beside it makes its rows."""
    fine = oracle.build_rows([event(IDENTIFY, b'{"email":"a@b"}')])
    mixed = oracle.build_rows([event(TRACK), event(IDENTIFY, payload), event(TRACK)])
    batches = [oracle.batch([fine]), oracle.batch([fine, mixed, fine])]
    made = RowMaker().rows_of(batches)
    assert made.problems == [(1, 1, 2, f"IDENTIFY event: {reason}")]
    assert made.tables["events_v1"].messages.tolist() == [1, 1]
    assert made.tables["events_v1"].entries.tolist() == [1, 3]
    assert made.tables["users_v1"].batches.tolist() == [0, 1, 1]
    assert made.tables["users_v1"].messages.tolist() == [0, 0, 2]


def test_a_message_that_does_not_decode_is_one_problem(oracle: Any) -> None:
    """It has no entries; refused ones have their number among those that decode."""
    message = oracle.build_rows([event(IDENTIFY), event(TRACK), event(IDENTIFY, b"x")])
    made = RowMaker().rows_of([oracle.batch([message, message[:30], message])])
    assert [problem[:3] for problem in made.problems] == [
        (0, 0, 0),
        (0, 0, 2),
        (0, 1, None),
        (0, 2, 3),
        (0, 2, 5),
    ]
    assert "reaches outside the message at byte" in made.problems[2].reason
    assert list(made.tables) == ["events_v1"]


def test_context_is_a_row_of_context(oracle: Any) -> None:
    """Its fields are columns, and the payload is kept whole."""
    payload = b'{"device_type":"mobile","operating_system":"iOS","locale":"fr_FR","extra":[1]}'
    made = made_of(oracle, event(CONTEXT, payload))
    (row,) = rows_of(made, "context_v1")
    assert row == dict.fromkeys(SCHEMAS["context_v1"].names, "") | {
        "timestamp": TIME,
        "device_id": DEVICE,
        "session_id": SESSION,
        "device_type": "mobile",
        "operating_system": "iOS",
        "locale": "fr_FR",
        "properties": payload,
        "source_ip": oracle.source_ip,
    }


def test_a_context_that_is_not_json_keeps_its_payload(oracle: Any) -> None:
    """It is counted; nothing of it is lost."""
    made = made_of(oracle, event(CONTEXT, b"os=iOS"), event(CONTEXT, b'{"os":"iOS"}'))
    rows = rows_of(made, "context_v1")
    assert [row["properties"] for row in rows] == [b"os=iOS", b'{"os":"iOS"}']
    assert [row["operating_system"] for row in rows] == ["", "iOS"]
    assert made.counts.contexts_unread == 1
    assert made.problems == []


@pytest.mark.parametrize("level", range(9))
def test_a_log_entry_is_a_row_of_logs(oracle: Any, level: int) -> None:
    """Levels are upper-case words; session and address are kept."""
    payload = b'{"message":"boom"}'
    entry = (("u8", 1), SESSION, ("u8", level), ("u64", TIME_MS), b"host", b"api", payload)
    made = RowMaker().rows_of([oracle.batch([oracle.build_rows([entry], 2)], 2)])
    assert rows_of(made, "logs_v1") == [
        {
            "timestamp": TIME,
            "level": LEVELS[level],
            "source": "host",
            "service": "api",
            "session_id": SESSION,
            "source_ip": oracle.source_ip,
            "pattern_id": None,
            "message": payload,
            "_raw": payload,
        }
    ]
    assert LEVELS[3] == "ERROR"
    assert LEVELS[6] == "INFO"


def test_a_log_entry_without_anything_is_an_info_of_1970(oracle: Any) -> None:
    """All that is absent is empty."""
    made = RowMaker().rows_of([oracle.batch([oracle.build_rows([[("u8", 1)]], 2)], 2)])
    (row,) = rows_of(made, "logs_v1")
    assert (row["level"], row["source"], row["service"]) == ("INFO", "", "")
    assert (row["session_id"], row["message"], row["_raw"]) == (NIL, b"", b"")
    assert row["timestamp"] == datetime.datetime(1970, 1, 1)  # noqa: DTZ001


def logs(oracle: Any, count: int, ids: Sequence[int] | None) -> Batch:
    batch = oracle.batch([oracle.build_rows([[("u8", 1)]] * count, 2)], 2)
    found = None if ids is None else np.array(ids, np.uint64)
    changed: Batch = replace(batch, pattern_ids=found)
    return changed


def test_pattern_ids_go_to_their_entries(oracle: Any) -> None:
    """Zero and no id are null, the largest number is kept, batches keep apart."""
    batches = [logs(oracle, 2, None), logs(oracle, 3, [0, 2**64 - 1, 7]), logs(oracle, 1, [5])]
    made = RowMaker().rows_of(batches)
    ids = [row["pattern_id"] for row in rows_of(made, "logs_v1")]
    assert ids == [None, None, None, 2**64 - 1, 7, 5]
    assert made.counts.pattern_ids_lost == 0


def test_pattern_ids_that_do_not_fit_are_not_guessed(oracle: Any) -> None:
    """A batch with another number of ids than of entries has none, which is counted."""
    made = RowMaker().rows_of([logs(oracle, 2, [1]), logs(oracle, 2, [1, 2])])
    assert [row["pattern_id"] for row in rows_of(made, "logs_v1")] == [None, None, 1, 2]
    assert made.counts.pattern_ids_lost == 1


def test_other_events_make_no_row_and_are_counted(oracle: Any) -> None:
    """They are in the archives; here their number is told, by type."""
    kinds = [GROUP, GROUP, ALIAS, ENRICH, 0, 250, TRACK]
    made = made_of(oracle, *[event(kind) for kind in kinds])
    assert made.counts.left_out == {"unknown": 2, "group": 2, "alias": 1, "enrich": 1}
    assert len(rows_of(made, "events_v1")) == 1
    assert made.problems == []


def test_other_events_can_go_into_events(oracle: Any) -> None:
    """With `all_events` all but IDENTIFY and CONTEXT are rows there."""
    kinds = [GROUP, IDENTIFY, ALIAS, CONTEXT, ENRICH, 0, TRACK]
    events = [event(kind, b'{"email":"a@b","n":%d}' % kind) for kind in kinds]
    made = made_of(oracle, *events, all_events=True)
    payloads = [row["properties"] for row in rows_of(made, "events_v1")]
    assert payloads == [b'{"email":"a@b","n":%d}' % kind for kind in (3, 4, 5, 0, 1)]
    assert made.counts.left_out == {}
    assert len(rows_of(made, "users_v1")) == len(rows_of(made, "context_v1")) == 1


def test_batches_of_other_schemas_are_counted_by_name(oracle: Any) -> None:
    """Metrics, traces and snapshots have no table here, nor has what is of no known schema."""
    schemas = [3, 4, 5, 3, 0, 77]
    made = RowMaker().rows_of([oracle.batch([b"x"], schema) for schema in schemas])
    assert made.counts.other_batches == {
        "metric": 2,
        "trace": 1,
        "snapshot": 1,
        "unknown": 1,
        "77": 1,
    }
    assert (made.tables, made.problems) == ({}, [])


def test_counts_have_a_name_each(oracle: Any) -> None:
    """Events and batches of no known kind are told apart."""
    other = oracle.batch([b"x"], 0)
    made = RowMaker().rows_of([oracle.batch([oracle.build_rows([event(0)])]), other, other])
    assert {name: count for name, count in made.counts.named().items() if count} == {
        "left_out_unknown": 1,
        "left_out_unknown_batches": 2,
    }


@pytest.mark.parametrize(
    ("time", "expected", "cut"),
    [
        (0, datetime.datetime(1970, 1, 1), 0),  # noqa: DTZ001
        (4_291_747_200_000, datetime.datetime(2106, 1, 1), 0),  # noqa: DTZ001
        (TIME_MS_MAX, datetime.datetime(2299, 12, 31, 23, 59, 59, 999_000), 0),  # noqa: DTZ001
        (TIME_MS_MAX + 1, datetime.datetime(2299, 12, 31, 23, 59, 59, 999_000), 4),  # noqa: DTZ001
        (2**64 - 1, datetime.datetime(2299, 12, 31, 23, 59, 59, 999_000), 4),  # noqa: DTZ001
    ],
)
def test_times_stay_in_what_the_column_holds(
    oracle: Any, time: int, expected: datetime.datetime, cut: int
) -> None:
    """A time behind the year 2299 becomes its last millisecond and is counted; no row is lost."""
    events = oracle.build_rows(
        [event(kind, b'{"email":"a@b","a":1}', time=time) for kind in (TRACK, IDENTIFY, CONTEXT)]
    )
    entry = (("u8", 1), SESSION, ("u8", 1), ("u64", time), b"host", b"api", b"{}")
    logged = oracle.build_rows([entry], 2)
    made = RowMaker().rows_of([oracle.batch([events]), oracle.batch([logged], 2)])
    assert list(made.tables) == list(SCHEMAS)
    for table in SCHEMAS:
        column = {"user_devices": "linked_at", "users_v1": "updated_at"}.get(table, "timestamp")
        column = "updated_at" if table == "user_traits" else column
        assert [row[column] for row in rows_of(made, table)] == [expected]
    assert made.counts.times_cut == cut


def test_rows_know_their_batch_and_message(oracle: Any) -> None:
    """Whatever the schemas between them, places are those in the list given."""
    track, log = oracle.build_rows([event(TRACK)] * 2), oracle.build_rows([[("u8", 1)]], 2)
    context = oracle.build_rows([event(CONTEXT)])
    batches = [
        oracle.batch([log], 2),
        oracle.batch([track, context]),
        oracle.batch([b"metrics"], 3),
        oracle.batch([]),
        oracle.batch([b"damaged", log, log], 2),
        oracle.batch([context, b"damaged", track]),
    ]
    made = RowMaker().rows_of(batches)
    places = {
        table: list(
            zip(rows.batches.tolist(), rows.messages.tolist(), rows.entries.tolist(), strict=True)
        )
        for table, rows in made.tables.items()
    }
    assert places == {
        "events_v1": [(1, 0, 0), (1, 0, 1), (5, 2, 1), (5, 2, 2)],
        "context_v1": [(1, 1, 2), (5, 0, 0)],
        "logs_v1": [(0, 0, 0), (4, 1, 0), (4, 2, 1)],
    }
    assert [problem[:3] for problem in made.problems] == [(4, 0, None), (5, 1, None)]


def test_places_outlive_the_next_call(oracle: Any) -> None:
    """Rows may be overwritten then, but where they came from may be kept."""
    maker = RowMaker()
    first = maker.rows_of([oracle.batch([oracle.build_rows([event(TRACK)])] * 3)])
    kept = first.tables["events_v1"]
    maker.rows_of([oracle.batch([b""] + [oracle.build_rows([event(TRACK)])] * 5)])
    assert kept.messages.tolist() == [0, 1, 2]
    assert kept.batches.tolist() == [0, 0, 0]
    assert kept.entries.tolist() == [0, 1, 2]


def test_nothing_gives_nothing(oracle: Any) -> None:
    """No batches, or only empty ones, make no table."""
    for batches in ([], [oracle.batch([]), oracle.batch([], 2)]):
        made = RowMaker().rows_of(batches)
        assert (made.tables, made.problems) == ({}, [])


def test_more_names_than_a_dictionary_holds(oracle: Any) -> None:
    """They are all there; a part of the rows takes only its own along."""
    names = [b"name %d" % place for place in range(2 * NAMES_MAX)]
    made = made_of(oracle, *[event(TRACK, name=name) for name in names])
    rows = made.tables["events_v1"]
    assert [row["event_name"].encode() for row in rows_of(made, "events_v1")] == names
    part = rows.slice(100, 3)
    assert part.rows["event_name"].to_pylist() == ["name 100", "name 101", "name 102"]
    assert len(serialise(part.rows)) < 5_000


def test_synthetic_events_keep_their_payloads_through_the_bytes() -> None:
    """Every TRACK event is a row, also after serialising month by month."""
    batches = synthetic_batches(3_000, "tell", 1_000)
    made = RowMaker().rows_of(batches)
    assert list(made.tables) == ["events_v1"]
    assert made.problems == []
    blocks = [serialise(part.rows) for part in split_by_month(made.tables["events_v1"])]
    rows = pa.Table.from_batches([deserialise(block) for block in blocks])
    numbers = [int(payload[5 : payload.index(b",")]) for payload in rows["_raw"].to_pylist()]
    assert sorted(numbers) == list(range(3_000))
    assert rows["properties"] == rows["_raw"]


def test_what_the_clients_sent_lands_where_it_belongs(captures: Path, oracle: Any) -> None:
    """Captured frames of both layouts: tables, values, and the metrics left out."""
    frames = oracle.frames((captures / "rust_encoding_0.5.0_frames.bin").read_bytes())
    frames += oracle.frames((captures / "collector_dialect_frames.bin").read_bytes())
    batches = [oracle.batch([frame], oracle.schema_of(frame)) for frame in frames]
    made = RowMaker().rows_of(batches)
    assert made.problems == []
    assert made.counts.other_batches == {"metric": 1}
    tracked = rows_of(made, "events_v1")
    assert [row["event_name"] for row in tracked] == ["Page Viewed", "page_view", "page_view"]
    assert tracked[0]["properties"].startswith(b'{"user_id":"throughput_user","url":"/home"')
    assert {(row["device_id"], row["session_id"]) for row in tracked} == {(DEVICE, SESSION)}
    users = [(row["email"], row["name"]) for row in rows_of(made, "users_v1")]
    assert users == [("a@b.co", "Ann"), (" User@Example.COM ", "Ann")]
    second = str(uuid.uuid5(uuid.NAMESPACE_DNS, "user@example.com"))
    traits = [
        (row["user_id"], row["trait_key"], row["trait_value"])
        for row in rows_of(made, "user_traits")
    ]
    assert traits == [(second, "plan", "pro"), (second, "tier", "gold")]
    assert [row["device_id"] for row in rows_of(made, "user_devices")] == [DEVICE, DEVICE]
    (context,) = rows_of(made, "context_v1")
    named = ("device_type", "device_model", "operating_system", "os_version", "app_version")
    assert [context[name] for name in named] == ["mobile", "iPhone 14", "iOS", "16.4", "2.1"]
    places = ("app_build", "timezone", "locale", "country", "region", "city")
    assert [context[name] for name in places] == [
        "7",
        "Europe/Paris",
        "fr_FR",
        "FR",
        "IDF",
        "Paris",
    ]
    logged = rows_of(made, "logs_v1")
    assert [row["level"] for row in logged] == ["NOTICE", "ERROR"]
    assert [row["message"] for row in logged] == [b'{"message":"notice"}', b'{"message":"boom"}']
    assert {(row["source"], row["service"]) for row in logged} == {("host-1", "api")}
