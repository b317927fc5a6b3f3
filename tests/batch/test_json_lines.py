"""Lines of JSON to messages, with Python's json and the flatbuffers library as judges."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.batch.enums import EventType, LogLevel, SchemaType
from cdp_ray_sinks.batch.json_lines import LineReader, ReadLines, TooManyLinesError

NOW_MS = 1_700_000_000_777
READER = LineReader()
EVENT_TYPES = {"track": 1, "identify": 2, "group": 3, "alias": 4, "enrich": 5, "context": 6}
LEVELS = {level.name.lower(): int(level) for level in LogLevel}
ALIASES = {"warn": 4, "err": 3, "crit": 2, "fatal": 2, "emerg": 0}
UUID = re.compile("[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
TIME = re.compile(r"([0-9]{1,15})(\.[0-9]+)?")


class RefusedError(Exception):
    """The judge refuses a line."""


class Number(str):
    """A number as it was written."""

    __slots__ = ()


def pairs_of(pairs: list[tuple[str, Any]]) -> Any:
    return tuple(pairs)


def refuse(*_: Any) -> Any:
    raise RefusedError


def parse(line: bytes) -> tuple[tuple[str, Any], ...]:
    """The pairs of an object; objects within are tuples of pairs too."""
    try:
        text = line.decode()
        found = json.loads(
            text, object_pairs_hook=pairs_of, parse_constant=refuse,
            parse_int=Number, parse_float=Number,
        )  # fmt: skip
    except (ValueError, RecursionError):
        raise RefusedError from None
    if not isinstance(found, tuple) or depth_of(found) > 32:
        raise RefusedError
    keys = [key for key, _ in found]
    if len(keys) != len(set(keys)) or len(keys) > 1024 or has_half_a_pair(found):
        raise RefusedError
    return found


def depth_of(value: Any) -> int:
    if isinstance(value, tuple):
        return 1 + max((depth_of(inner) for _, inner in value), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(inner) for inner in value), default=0)
    return 0


def has_half_a_pair(value: Any) -> bool:
    if isinstance(value, str):
        return any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)
    if isinstance(value, tuple):
        return any(has_half_a_pair(key) or has_half_a_pair(inner) for key, inner in value)
    return isinstance(value, list) and any(has_half_a_pair(inner) for inner in value)


def expected_row(line: bytes, is_log: bool) -> dict[str, Any]:
    """What a line should become, written down once more without any kernel."""
    pairs = parse(line)
    row: dict[str, Any] = {"timestamp": NOW_MS, "event_type": 1 if is_log else 0}
    if is_log:
        row["level"] = 6
    names = {"service": "service", "source": "source"} if is_log else {
        "service": "service", "event": "event_name"
    }  # fmt: skip
    ids = ("session_id",) if is_log else ("session_id", "device_id")
    types = {"log": 1, "enrich": 2} if is_log else EVENT_TYPES
    left = []
    for key, value in pairs:
        is_text = isinstance(value, str) and not isinstance(value, Number)
        columns = {"type", "timestamp", *names, *ids, *(["level"] if is_log else [])}
        if key in columns and value is None:
            continue
        if key in names and is_text:
            row[names[key]] = value
        elif key in ids and is_text and (value == "" or UUID.fullmatch(value)):
            row[key] = bytes.fromhex(value.replace("-", "")) or None
        elif key == "timestamp" and isinstance(value, Number) and time_of(value) is not None:
            row["timestamp"] = time_of(value)
        elif key == "type" and is_text and value in types:
            row["event_type"] = types[value]
        elif key == "level" and is_log and is_text and ascii_lower(value) in LEVELS:
            row["level"] = LEVELS[ascii_lower(value)]
        else:
            if key == "level" and is_log and is_text:
                row["level"] = ALIASES.get(ascii_lower(value), row["level"])
            left.append((key, value))
    if row["event_type"] == 0:
        if not row.get("event_name"):
            raise RefusedError
        row["event_type"] = 1
    row["payload"] = merged(left, is_log, row["event_type"])
    return row


def ascii_lower(text: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def time_of(number: str) -> int | None:
    found = TIME.fullmatch(number)
    value = int(found[1]) if found else -1
    return value if 0 <= value <= 253_402_300_799_999 else None


def merged(pairs: list[tuple[str, Any]], is_log: bool, event_type: int) -> dict[str, Any]:
    open_keys = {"data"} if is_log else {"properties", "traits"}
    if not is_log and event_type == EventType.CONTEXT:
        open_keys.add("context")
    is_renaming = not is_log and "context" not in open_keys
    objects = open_keys | ({"context"} if is_renaming else set())
    taken = {key for key, value in pairs if not (key in objects and isinstance(value, tuple))}
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in open_keys and isinstance(value, tuple):
            inner = [name for name, _ in value]
            if len(inner) != len(set(inner)):
                raise RefusedError
            if taken & set(inner):
                if key in taken:
                    raise RefusedError
                taken.add(key)
                made[key] = value
            else:
                taken |= set(inner)
                made.update(dict(value))
        elif is_renaming and key == "context" and isinstance(value, tuple):
            name = "context" if "_context" in taken else "_context"
            taken.add(name)
            made[name] = value
        else:
            made[key] = value
    return made


def rows_of(read: ReadLines, oracle: Any, schema_type: int) -> list[dict[str, Any]]:
    """What the flatbuffers library finds in the messages."""
    found = []
    for message in oracle.frames(read.records.tobytes()):
        is_log = schema_type == SchemaType.LOG
        found += oracle.logs(message) if is_log else oracle.events(message, "v2")
    return found


@pytest.mark.parametrize("schema_type", [SchemaType.EVENT, SchemaType.LOG])
@pytest.mark.parametrize("seed", range(3))
def test_random_lines_become_what_the_judge_says(oracle: Any, schema_type: int, seed: int) -> None:
    """Whole and damaged lines of all kinds, in one body: each row, and each refused line."""
    source = random.Random(f"{seed}{schema_type}")
    lines = [random_line(source) for _ in range(400)]
    read = READER.read(b"\n".join(lines), schema_type, NOW_MS)
    wanted, refused = [], []
    for number, line in enumerate(b"\n".join(lines).split(b"\n"), 1):
        if not line.strip(b" \t\r"):
            continue
        try:
            wanted.append(expected_row(line, schema_type == SchemaType.LOG))
        except RefusedError:
            refused.append(number)
    shown = [problem.line for problem in read.problems]
    assert shown == refused[: len(shown)]
    assert read.rejected_count == len(refused)
    compare(rows_of(read, oracle, schema_type), wanted)
    assert len(wanted) > 100
    assert len(refused) > 50


def compare(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for row, expected in zip(found, wanted, strict=True):
        payload = row.pop("payload") or b"{}"
        assert dict(parse(payload)) == expected.pop("payload")
        for key in ("timestamp", "event_type", "level", "service", "source", "event_name",
                    "device_id", "session_id"):  # fmt: skip
            assert row.get(key) == expected.get(key), (key, row, expected)


KEYS = [
    "type", "event", "timestamp", "device_id", "session_id", "service", "properties", "traits",
    "context", "_context", "level", "source", "data", "user_id", "a", "b", "ü", "k" * 40, "",
    "device_ie", "a\"b", "line\nfeed", "tra\u0069ts", "😀",
]  # fmt: skip


def random_value(source: random.Random, depth: int) -> Any:
    choice = source.randrange(14)
    if choice < 3 and depth < 3:
        return {
            source.choice(KEYS): random_value(source, depth + 1) for _ in range(source.randrange(4))
        }
    if choice == 3 and depth < 3:
        return [random_value(source, depth + 1) for _ in range(source.randrange(4))]
    return source.choice([
        None, True, False, 0, -1, 1.5, 1e300, 10**20, NOW_MS, NOW_MS + 0.25, "", "text",
        "ü😀\u2028",
        "quote\" back\\slash \x00\x1f", "track", "identify", "context", "log", "WARN", "Error",
        "0123456789abcdef0123456789ABCDEF", "01234567-89ab-cdef-0123-456789abcdef", "x" * 100,
    ])  # fmt: skip


def random_line(source: random.Random) -> bytes:
    """A line as clients may write it; two of five are damaged somewhere."""
    line = {}
    if source.random() < 0.8:
        line["type"] = source.choice([*EVENT_TYPES, "log", "page"])
    for _ in range(source.randrange(8)):
        line[source.choice(KEYS)] = random_value(source, 0)
    is_ascii = source.random() < 0.5
    separators = source.choice([(",", ":"), (", ", ": "), (" ,\t", " : \r")])
    made = bytearray(json.dumps(line, ensure_ascii=is_ascii, separators=separators).encode())
    if source.random() < 0.1:
        made += b"\r"
    if source.random() < 0.4:
        damage = source.randrange(5)
        at = source.randrange(len(made))
        if damage == 0:
            made[at] = source.randrange(256)
        elif damage == 1:
            del made[at:]
        elif damage == 2:
            made[at:at] = bytes(source.choice(b'{}[]",:\\u0NaI\xff\xc3 1') for _ in range(2))
        elif damage == 3:
            made[at:at] = made[source.randrange(len(made)) :]
        else:
            del made[at : at + source.randrange(1, 4)]
    return bytes(made)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([SchemaType.EVENT, SchemaType.LOG]))
def test_any_bytes_are_read_or_refused(body: bytes, schema_type: int) -> None:
    """Whatever comes: each line that has something in it is one or the other."""
    read = READER.read(body, schema_type, NOW_MS)
    lines = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    something = [line for line in lines if line.strip(b" \t\r")]
    assert read.event_count + read.rejected_count == len(something)


@settings(max_examples=150, deadline=None)
@given(st.text(), st.text(), st.booleans())
def test_any_text_survives(name: str, value: str, is_ascii: bool) -> None:
    """As event name, unescaped, and as a property, as it was written."""
    try:
        (name + value).encode()
    except UnicodeEncodeError:
        return
    line = json.dumps({"event": name, "type": "track", "p": value}, ensure_ascii=is_ascii)
    read = READER.read(line.encode(), SchemaType.EVENT, NOW_MS)
    assert read.event_count == 1
    held = read.records.tobytes()
    assert name.encode() in held
    assert json.dumps({"p": value}, ensure_ascii=is_ascii, separators=(",", ": ")).encode() in held


@pytest.mark.parametrize(("line", "reason"), [
    (b'{"type":"track","a":NaN}', "NaN and Infinity are not JSON, at byte 21"),
    (b'{"type":"track","a":-Infinity}', "NaN and Infinity"),
    (b'{"type":"track","a":1,"\\u0061":2}', 'the key "\\u0061" is there twice'),
    (b'{"type":"track","properties":{"b":1,"b":2}}', 'the key "b" is there twice'),
    (b'{"type":"track","a":"\\ud83d"}', "half a surrogate pair at byte 22"),
    (b'{"type":"track","a":"\\udc00\\ud83d"}', "half a surrogate pair"),
    (b'{"type":"track","a":"\xc3("}', "not UTF-8 at byte 22"),
    (b'{"type":"track","a":"\xed\xa0\x80"}', "not UTF-8"),
    (b'{"type":"track","a":"\x01"}', "a control character"),
    (b'{"type":"track","a":"\\x"}', "an unknown escape"),
    (b'{"type":"track","a":' + b"[" * 40 + b"]" * 40 + b"}", "deeper than 32"),
    (b'{"type":"track","a":01}', "not JSON at byte 21"),
    (b'{"type":"track",}', "not JSON at byte 17"),
    (b'{"type":"track"', "ends too early"),
    (b'{"type":"track"} {}', "something behind the object, at byte 18"),
    (b"[]", "not a JSON object"),
    (b'{"type":"page"}', "neither an event nor a type"),
    (b"{" + b",".join(b'"k%d":1' % n for n in range(1100)) + b"}", "more than 1024 keys"),
])  # fmt: skip
def test_a_refused_line_is_named(line: bytes, reason: str) -> None:
    """Its number counts all lines, its byte from 1, and the lines around it are taken."""
    good = b'{"event":"Seen"}'
    read = READER.read(b"\n".join([good, b"", line, good]), SchemaType.EVENT, NOW_MS)
    assert read.event_count == 2
    [problem] = read.problems
    assert problem.line == 3
    assert problem.reason.startswith(reason)


def test_depth_of_just_enough_is_taken() -> None:
    """32 levels with the object itself."""
    line = b'{"type":"track","a":' + b"[" * 31 + b"]" * 31 + b"}"
    assert READER.read(line, SchemaType.EVENT, NOW_MS).event_count == 1
    deeper = line.replace(b"[]", b"[[]]")
    assert READER.read(deeper, SchemaType.EVENT, NOW_MS).rejected_count == 1


def test_many_and_large_lines() -> None:
    """Messages of at most 500 events or about a MiB; too many lines are refused whole."""
    line = b'{"event":"Seen"}\n'
    read = READER.read(line * 1201, SchemaType.EVENT, NOW_MS)
    assert (read.event_count, len(read.offsets)) == (1201, 4)
    large = json.dumps({"event": "Seen", "text": "x" * 600_000}).encode() + b"\n"
    read = READER.read(large * 5, SchemaType.EVENT, NOW_MS)
    assert len(read.offsets) == 6
    with pytest.raises(TooManyLinesError, match="more than 10000 lines"):
        READER.read(line * 10_001, SchemaType.EVENT, NOW_MS)
    assert READER.read(b"\n" * 100_000 + line, SchemaType.EVENT, NOW_MS).event_count == 1


def test_what_is_cut_anywhere_is_refused_or_whole() -> None:
    """Every beginning of a line, at the very end of the buffer."""
    properties = {"a": [1, {"b": "\n"}]}
    line = json.dumps({"type": "track", "event": "é", "properties": properties}).encode()
    for end in range(1, len(line)):
        read = READER.read(line[:end], SchemaType.EVENT, NOW_MS)
        assert (read.event_count, read.rejected_count) == (0, 1)
    assert READER.read(line, SchemaType.EVENT, NOW_MS).event_count == 1
