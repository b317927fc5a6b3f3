"""Rows of the six tables against a slow judge that shares nothing with what makes them."""

from __future__ import annotations

import datetime
import itertools
import json
import random
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.writers.clickhouse_rows import RowMaker
from cdp_ray_sinks.writers.clickhouse_tables import SCHEMAS, TableRows

LATEST_MS = 10_413_791_999_999
EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - the columns have no zone
LEVELS = ["EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFO", "DEBUG", "TRACE"]
LEFT_OUT = {0: "unknown", 3: "group", 4: "alias", 5: "enrich"}
PLACES = {
    "device_type": ["device_type", "device.type"],
    "device_model": ["device_model", "device.model"],
    "operating_system": ["operating_system", "os_name", "os.name", "os"],
    "os_version": ["os_version", "os.version"],
    "app_version": ["app_version", "app.version"],
    "app_build": ["app_build", "app.build"],
    "timezone": ["timezone", "time_zone"],
    "locale": ["locale", "language"],
    "country": ["country", "location.country"],
    "region": ["region", "location.region"],
    "city": ["city", "location.city"],
}

Found = dict[str, list[dict[str, Any]]]
Place = tuple[int, int, int]
"""Of a batch, a message in it, and an entry among all of the batch."""


class Number(str):
    """A number that is kept as it was written."""


class Judge:
    """What the tables must hold, worked out event by event."""

    def __init__(self, all_events: bool) -> None:
        self.all_events = all_events
        self.tables: Found = {table: [] for table in SCHEMAS}
        self.problems: list[Place] = []
        self.left_out: dict[str, int] = {}

    def event(self, event: dict[str, Any], at: Place, ip: bytes) -> None:
        """Add what becomes of one event of message `at`."""
        kind, payload = event["event_type"], event["payload"] or b""
        time = time_of(event["timestamp"])
        row = {
            "timestamp": time,
            "device_id": event["device_id"] or bytes(16),
            "session_id": event["session_id"] or bytes(16),
            "properties": payload,
            "source_ip": ip,
            "at": at,
        }
        if kind == 1 or (kind in LEFT_OUT and self.all_events):
            name = event["event_name"] or ""
            self.tables["events_v1"].append({**row, "event_name": name, "_raw": payload})
        elif kind == 6:
            self.tables["context_v1"].append(row | context_of(json_of(payload) or {}))
        elif kind == 2:
            self.identify(json_of(payload) or {}, event["device_id"] or bytes(16), time, at)
        else:
            self.left_out[LEFT_OUT[kind]] = self.left_out.get(LEFT_OUT[kind], 0) + 1

    def identify(
        self,
        found: dict[str, Any],
        device: bytes,
        time: datetime.datetime,
        at: Place,
    ) -> None:
        traits = {k: v for k, v in found.items() if k not in ("user_id", "email", "name", "traits")}
        nested = found.get("traits")
        if not isinstance(nested, dict):
            if nested is not None:
                traits["traits"] = nested
            nested = {}
        emails = [found.get("email"), nested.get("email")]
        email = next((e for e in emails if is_plain(e) and e.strip()), None)
        if email is None:
            self.problems.append(at)
            return
        name = found.get("name")
        name = nested.get("name") if name in (None, "") else name
        user_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, email.strip().lower()))
        shared = {"user_id": user_id, "updated_at": time, "at": at}
        text = "" if name is None else text_of(name)
        self.tables["users_v1"].append({**shared, "email": email, "name": text})
        if any(device):
            link = {"user_id": user_id, "linked_at": time, "device_id": device, "at": at}
            self.tables["user_devices"].append(link)
        for key, value in (traits | nested).items():
            trait = {"trait_key": key, "trait_value": text_of(value)}
            self.tables["user_traits"].append(shared | trait)

    def log(self, entry: dict[str, Any], at: Place, ip: bytes) -> None:
        """Add one log entry."""
        self.tables["logs_v1"].append(
            {
                "timestamp": time_of(entry["timestamp"]),
                "level": LEVELS[entry["level"]],
                "source": entry["source"] or "",
                "service": entry["service"] or "",
                "session_id": entry["session_id"] or bytes(16),
                "source_ip": ip,
                "pattern_id": None,
                "message": entry["payload"] or b"",
                "_raw": entry["payload"] or b"",
                "at": at,
            }
        )


def time_of(ms: int) -> datetime.datetime:
    return EPOCH + datetime.timedelta(milliseconds=min(ms, LATEST_MS))


def is_plain(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def whole(value: Any) -> Any:
    """The value without halves of surrogate pairs."""
    if is_plain(value):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    if isinstance(value, dict):
        return {whole(key): whole(inner) for key, inner in value.items()}
    return value


def no_constant(name: str) -> None:
    raise ValueError(name)


def json_of(payload: bytes) -> dict[str, Any] | None:
    """The object in the payload, None if there is none."""
    text = payload.decode("utf-8", "replace").removeprefix("\ufeff").strip()
    try:
        found = json.loads(text, parse_float=Number, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return None
    return whole(found) if isinstance(found, dict) else None


def text_of(value: Any) -> str:
    if is_plain(value):
        return str(value)
    return json_text(value)


def json_text(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    if isinstance(value, dict):
        pairs = (f"{json_text(key)}:{json_text(inner)}" for key, inner in value.items())
        return "{" + ",".join(pairs) + "}"
    return json.dumps(value, ensure_ascii=False)


def context_of(found: dict[str, Any]) -> dict[str, Any]:
    wrapped = [found.get("_context"), found.get("context")]
    insides = [found, *(one for one in wrapped if isinstance(one, dict))]
    columns = {}
    for column, paths in PLACES.items():
        values = [value_at(inside, path) for inside in insides for path in paths]
        columns[column] = next((value for value in values if value), "")
    columns["locale"] = locale_of(columns["locale"])
    return columns


def value_at(found: dict[str, Any], path: str) -> str:
    value: Any = found
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None or isinstance(value, dict | list) else text_of(value)


def locale_of(text: str) -> str:
    """Language and region by splitting; else the first characters that fit."""
    if len(text.encode()) <= 5:
        return text
    parts = text.replace("_", "-").replace(".", "-").replace("@", "-").split("-")
    language = parts[0]
    if not (language.isascii() and language.isalpha() and len(language) in (2, 3)):
        while len(text.encode()) > 5:
            text = text[:-1]
        return text
    separators = [c for c in text if c in "-_.@"]
    place = 1
    if len(parts) > 1 and is_tag(parts[1], 4) and separators[0] in "-_":
        place = 2
    if len(parts) > place and is_tag(parts[place], 2) and separators[place - 1] in "-_":
        both = language + separators[place - 1] + parts[place]
        if len(both) <= 5:
            return both
    return language


def is_tag(text: str, count: int) -> bool:
    return len(text) == count and text.isascii() and text.isalpha()


TEXTS = [
    "",
    " ",
    "a",
    "b",
    "1",
    "true",
    "Zoë",
    "half \ud83d",
    "\ud83d\ude00",
    'q"\\\n\0,:{}[]',
    "x" * 40,
]
EMAILS = ["A@b.co", " a@B.CO ", "Ünï@x.de", "", " \t", "\ud83d@cut.de", "İ@x", None, 5, ["a@b"]]
LOCALES = ["zh-Hant-TW", "en_US.UTF-8", "de", "es-419", "en-Latn-US@x", "ääää", "english"]
NUMBERS = [0, -1, 7, 2**63, -(2**70), 1.5, -0.0, 1e300, 12345.678]
KEYS = sorted({key for paths in PLACES.values() for path in paths for key in path.split(".")})
WRAPPERS = ["_context", "context", "device", "os", "app", "location"]
IDS = [None, bytes(16), b"\x01" * 16, b"\xff" * 16, b"\x02" * 15, b"\x03" * 16, bytes(15) + b"\x01"]
TIMES_MS = [0, 1_767_225_600_000, LATEST_MS, LATEST_MS + 1, 2**63, 2**64 - 1]
NAMES = [None, b"", b"Page Viewed", b"\xff", "Käse".encode()]


class Client:
    """Writes messages of all kinds, some of them odd."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def value(self, depth: int = 0) -> Any:
        """Any JSON."""
        kind = self.random.randrange(12)
        if kind < 4 or depth > 3:
            return self.pick(TEXTS)
        if kind < 6:
            return self.pick(NUMBERS)
        if kind < 9:
            return self.pick([None, True, False])
        inner = [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return inner if kind == 9 else {self.pick(TEXTS): one for one in inner}

    def identity(self, depth: int = 0) -> dict[str, Any]:
        """What is known of somebody: flat, nested or both."""
        found: dict[str, Any] = {}
        for _ in range(self.random.randrange(6)):
            key = self.pick(["user_id", "email", "email", "name", "plan", "seats", *TEXTS[2:5]])
            texts = {"email": EMAILS, "name": ["", None, "Ann", 7]}
            found[key] = self.pick(texts[key]) if key in texts else self.value()
        if depth == 0 and self.random.random() < 0.6:
            nested = self.random.random() < 0.8
            found["traits"] = self.identity(1) if nested else self.value()
        return found

    def context(self, depth: int = 0) -> dict[str, Any]:
        """A device and a place, by any names."""
        found: dict[str, Any] = {}
        for _ in range(self.random.randrange(9)):
            key = self.pick(KEYS)
            found[key] = self.pick(LOCALES) if key == "locale" else self.value()
        for key in WRAPPERS:
            if depth < 2 and self.random.random() < 0.25:
                found[key] = self.context(depth + 1)
        return found

    def payload(self, kind: int) -> bytes:
        """Mostly what belongs to the kind; sometimes damaged, or not JSON at all.

        Never absent: a table that ends earlier can be taken for one of the other layout.
        """
        if self.random.random() < 0.05:
            return self.pick([b"", b"no json", b"[1]", b"5", b"\xff{}", b"\xef\xbb\xbf{}"])
        found = self.context() if kind == 6 else self.identity()
        indent = self.pick([None, None, 1])
        text = json.dumps(found, ensure_ascii=self.random.random() < 0.5, indent=indent)
        payload = bytearray(text.encode("utf-8", "surrogatepass"))
        if self.random.random() < 0.1:
            payload[self.random.randrange(len(payload))] = self.random.randrange(256)
        return bytes(payload)

    def event(self) -> tuple[Any, ...]:
        """A row of `build_rows`."""
        kind = self.pick([0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 6, 6, 250])
        ids = self.pick(IDS), self.pick(IDS)
        texts = self.pick(NAMES), self.pick(NAMES)
        return ("u8", kind), self.time(), texts[0], *ids, texts[1], self.payload(kind)

    def log(self) -> tuple[Any, ...]:
        """A row of `build_rows` for a log entry."""
        level = "u8", self.random.randrange(12)
        texts = self.pick(NAMES), self.pick(NAMES)
        return ("u8", 1), self.pick(IDS), level, self.time(), *texts, self.payload(1)

    def time(self) -> tuple[str, int]:
        return "u64", self.pick([*TIMES_MS, self.random.randrange(2**42)])

    def batches(self) -> list[tuple[int, list[list[tuple[Any, ...]]]]]:
        """Schema, and rows of each message, of some batches."""
        made = []
        for _ in range(self.random.randrange(5)):
            schema = self.pick([1, 1, 1, 2])
            row = self.event if schema == 1 else self.log
            counts = [self.random.randrange(1, 9) for _ in range(self.random.randrange(4))]
            made.append((schema, [[row() for _ in range(count)] for count in counts]))
        return made


def rows_with_places(found: TableRows) -> list[dict[str, Any]]:
    found.rows.validate(full=True)
    assert found.rows.schema == SCHEMAS[found.table]
    rows: list[dict[str, Any]] = found.rows.to_pylist()
    numbers = (found.batches, found.messages, found.entries)
    places = zip(*(one.tolist() for one in numbers), strict=True)
    return [row | {"at": at} for row, at in zip(rows, places, strict=True)]


def judged(
    oracle: Any, batches: Sequence[Batch], messages: Sequence[Sequence[bytes]], all_events: bool
) -> Judge:
    judge = Judge(all_events)
    for place, (batch, contents) in enumerate(zip(batches, messages, strict=True)):
        entries = itertools.count()
        for index, message in enumerate(contents):
            if batch.header.schema_type == 1:
                for event in oracle.events(message, "v2"):
                    judge.event(event, (place, index, next(entries)), oracle.source_ip)
            else:
                for entry in oracle.logs(message):
                    judge.log(entry, (place, index, next(entries)), oracle.source_ip)
    return judge


@pytest.fixture(scope="module")
def makers() -> dict[bool, RowMaker]:
    """One of each for all examples: what it remembers must not show."""
    return {True: RowMaker(all_events=True), False: RowMaker()}


@given(seed=st.integers(0, 2**32), all_events=st.booleans())
@settings(max_examples=200)
def test_rows_are_those_of_the_judge(
    oracle: Any, makers: dict[bool, RowMaker], seed: int, all_events: bool
) -> None:
    """Every row, its place, every problem and what is left out, for events of any kind."""
    contents = Client(seed).batches()
    messages = [
        [oracle.build_rows(rows, schema) for rows in several] for schema, several in contents
    ]
    batches = [
        oracle.batch(built, schema) for built, (schema, _) in zip(messages, contents, strict=True)
    ]
    judge = judged(oracle, batches, messages, all_events)
    made = makers[all_events].rows_of(batches)
    for table, expected in judge.tables.items():
        found = rows_with_places(made.tables[table]) if table in made.tables else []
        assert found == expected, table
    assert [problem[:3] for problem in made.problems] == judge.problems
    assert made.counts.left_out == judge.left_out


@given(text=st.text(alphabet="enTWzhLatn419-_.@ äß", max_size=14))
@settings(max_examples=300)
def test_any_locale_fits(text: str) -> None:
    """At most 5 bytes, as the judge has it; what fits is not touched."""
    from cdp_ray_sinks.writers.clickhouse_context import short_locale

    assert short_locale(text) == locale_of(text)
    assert len(short_locale(text).encode()) <= 5
