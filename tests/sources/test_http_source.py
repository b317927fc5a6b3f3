"""The HTTP source over real sockets."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.batch import json_lines
from cdp_ray_sinks.batch.columns import decode_events, decode_logs
from cdp_ray_sinks.batch.enums import EventType, LogLevel
from cdp_ray_sinks.clock import SystemClock
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.base import SourceContext
from cdp_ray_sinks.sources.registry import load_source_config

LINE = b'{"type":"track","event":"Seen","timestamp":1700000000000,"n":1}'


def source_of(api_keys: Path, **options: Any) -> Any:
    """An HTTP source on a free port of the loopback."""
    config = load_source_config(
        "http", {"listen": "127.0.0.1:0", "api_keys": str(api_keys), **options}
    )
    return config.build(SourceContext("http_main", SystemClock()))


class Client:
    """One keep-alive connection that posts bodies."""

    def __init__(self, running: Any, key: bytes) -> None:
        host, _, port = running.source.address.rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=20)
        self.running, self.key = running, key

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, named)
        response = self.connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None, response.headers

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        if not any(name.lower() in ("authorization", "x_api_key") for name in headers):
            headers["Authorization"] = f"Bearer {self.key.hex()}"
        headers.setdefault("Content_Type", "application/x-ndjson")
        status, content, _ = self.send("POST", path, body, **headers)
        return status, content


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """A client must not wait for kernels that are being compiled."""
    json_lines.warm()


@pytest.fixture(scope="session")
def requests() -> Path:
    """The folder of captured requests that CDP_CAPTURES names; skips without it."""
    if "CDP_CAPTURES" not in os.environ:
        pytest.skip("CDP_CAPTURES names no folder of captured client bytes")
    return Path(os.environ["CDP_CAPTURES"])


@pytest.fixture
def client(api_keys: Path, run_source: Any, wire: Any) -> Client:
    """A client of a source with the options as they come."""
    return Client(run_source(source_of(api_keys)), wire.one)


def events_of(taker: Any) -> list[dict[str, Any]]:
    """All events that were taken, each as a dictionary of columns."""
    return [row for batch in taker.batches for row in decode_events(batch).table.to_pylist()]


def test_lines_become_events(client: Client, taker: Any) -> None:
    """Columns from their keys, the rest in the payload as it was sent."""
    line = {
        "type": "identify",
        "device_id": "79e5e167-69cd-ea46-a516-9d5f6089da19",
        "session_id": "5cd561ee7723c7ddeb0ade495799d530",
        "user_id": "user_1",
        "service": "shop",
        "timestamp": 1_700_000_000_123,
        "traits": {"plan": "pro", "email": "a@b.co"},
    }
    status, answer = client.post("/v1/events", LINE + b"\n\n" + json.dumps(line).encode() + b"\n")
    assert status == 202
    assert answer["accepted"] == 2
    assert answer["request_id"]
    track, identify = events_of(taker)
    assert track["event_type"] == EventType.TRACK
    assert (track["event_name"], track["timestamp"]) == ("Seen", 1_700_000_000_000)
    assert track["payload"] == b'{"n":1}'
    assert identify["event_type"] == EventType.IDENTIFY
    assert identify["device_id"].hex() == "79e5e16769cdea46a5169d5f6089da19"
    assert identify["session_id"].hex() == line["session_id"]
    assert identify["service"] == "shop"
    assert json.loads(identify["payload"]) == {
        "user_id": "user_1", "plan": "pro", "email": "a@b.co"
    }  # fmt: skip
    [batch] = taker.batches
    header = batch.header
    assert (header.workspace_id, header.source_id, header.event_count) == (1, "http_main", 2)
    assert header.message_count == 1


def test_lines_become_log_entries(client: Client, taker: Any) -> None:
    """Level, source and service are columns; `data` joins the message in the payload."""
    line = {"level": "warning", "message": "hm", "source": "web-1", "service": "shop",
            "data": {"code": 500}}  # fmt: skip
    before_ms = time.time_ns() // 1_000_000
    assert client.post("/v1/logs", json.dumps(line).encode())[0] == 202
    [batch] = taker.batches
    [entry] = decode_logs(batch).table.to_pylist()
    assert (entry["level"], entry["source"], entry["service"]) == (
        LogLevel.WARNING, "web-1", "shop"
    )  # fmt: skip
    assert json.loads(entry["payload"]) == {"message": "hm", "code": 500}
    assert before_ms <= entry["timestamp"] <= time.time_ns() // 1_000_000


def test_bad_lines_are_named_and_good_ones_taken(client: Client, taker: Any) -> None:
    """207 with line and reason; 400 when no line is good."""
    body = b"\n".join([LINE, b'{"type":"track","a":NaN}', b"", b"{", LINE, b'{"type":"page"}'])
    status, answer = client.post("/v1/events", body)
    assert status == 207
    assert (answer["accepted"], answer["rejected"]) == (2, 3)
    assert [problem["line"] for problem in answer["errors"]] == [2, 4, 6]
    assert "NaN" in answer["errors"][0]["error"]
    assert taker.events == client.running.counter("events") == 2
    assert client.running.counter("lines_rejected") == 3
    status, answer = client.post("/v1/events", b"[1]\n{}")
    assert (status, answer["rejected"]) == (400, 2)
    assert client.post("/v1/events", b" \n\n")[0] == 400


@pytest.mark.parametrize("way", ["bearer", "header", "query"])
def test_a_key_may_come_in_three_ways(client: Client, taker: Any, wire: Any, way: str) -> None:
    """The key decides the workspace; no key and unknown ones are refused."""
    key = wire.two.hex()
    headers = {"bearer": {"Authorization": f"bearer {key}"}, "header": {"X_API_Key": key.upper()}}
    path = f"/v1/events?token={key}" if way == "query" else "/v1/events"
    status, _, _ = client.send(
        "POST", path, LINE, Content_Type="text/plain", **headers.get(way, {})
    )
    assert status == 202
    assert [batch.header.workspace_id for batch in taker.batches] == [2]
    for bad in (key[:-1], "0" * 32, key[:-1] + "g", "", "%00"):
        bad_path = f"/v1/events?token={bad}" if way == "query" else "/v1/events"
        bad_headers = {
            "bearer": {"Authorization": f"Bearer {bad}"}, "header": {"X_API_Key": bad}
        }.get(way, {})  # fmt: skip
        status, answer, headers_back = client.send("POST", bad_path, LINE, **bad_headers)
        assert status == 401
        assert headers_back["WWW-Authenticate"] == "Bearer"
        assert not bad or bad not in json.dumps(answer)
    assert client.send("POST", "/v1/events", LINE)[0] == 401


def test_gzip_is_unpacked_within_bounds(
    api_keys: Path, run_source: Any, taker: Any, wire: Any
) -> None:
    """One member or several; a bomb, a cut one and one that is none are refused."""
    running = run_source(source_of(api_keys, body_bytes_max=100_000))
    client = Client(running, wire.one)
    packed = gzip.compress(LINE + b"\n")
    status, answer = client.post("/v1/events", packed * 3, Content_Encoding="gzip")
    assert (status, answer["accepted"]) == (202, 3)
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    assert client.post("/v1/events", bomb, Content_Encoding="gzip")[0] == 413
    assert client.post("/v1/events", packed[:-9], Content_Encoding="gzip")[0] == 400
    assert client.post("/v1/events", LINE, Content_Encoding="gzip")[0] == 400
    assert client.post("/v1/events", LINE, Content_Encoding="br")[0] == 415
    assert taker.events == 3


@pytest.mark.parametrize("name", [
    "browser_sdk_0.3.2_events", "browser_sdk_0.3.2_logs", "node_sdk_0.3.2_events",
    "node_sdk_0.3.2_events_gzip", "node_sdk_0.3.2_logs",
])  # fmt: skip
def test_captured_requests_byte_for_byte(
    tmp_path: Path, requests: Path, run_source: Any, taker: Any, name: str
) -> None:
    """What SDKs really sent is answered 202, and every key of every line is there again."""
    keys = tmp_path / "keys.conf"
    keys.write_text("feed1e11feed1e11feed1e11feed1e11:7\n")
    running = run_source(source_of(keys))
    request = (requests / f"{name}.http").read_bytes()
    with running.connect() as peer:
        peer.sendall(request)
        assert peer.recv(4096).startswith(b"HTTP/1.1 202 ")
    body = request.split(b"\r\n\r\n", 1)[1]
    lines = gzip.decompress(body) if name.endswith("gzip") else body
    sent = [json.loads(line) for line in lines.splitlines()]
    decode = decode_logs if "logs" in name else decode_events
    rows = [row for batch in taker.batches for row in decode(batch).table.to_pylist()]
    assert [batch.header.workspace_id for batch in taker.batches] == [7]
    assert len(rows) == len(sent)
    for line, row in zip(sent, rows, strict=True):
        code = EventType if "events" in name else LogLevel
        named = row["event_type"] if "events" in name else row["level"]
        assert code(named).name.lower() == line.pop("type" if "events" in name else "level")
        assert row["timestamp"] == line.pop("timestamp")
        assert row["session_id"].hex() == line.pop("session_id")
        assert row["service"] == line.pop("service")
        if "events" in name:
            assert row["device_id"].hex() == line.pop("device_id")
            assert row["event_name"] == line.pop("event", None)
        else:
            assert row["source"] == line.pop("source")
            line |= line.pop("data", {})
        assert json.loads(row["payload"]) == line


def test_browsers_are_allowed(api_keys: Path, run_source: Any, wire: Any) -> None:
    """A preflight is answered, and answers may be read by the origins that are configured."""
    client = Client(run_source(source_of(api_keys)), wire.one)
    status, _, headers = client.send(
        "OPTIONS", "/v1/events", Origin="https://shop.example",
        Access_Control_Request_Method="POST", Access_Control_Request_Headers="x-api-key",
    )  # fmt: skip
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "X-API-Key" in headers["Access-Control-Allow-Headers"]
    assert client.send("GET", "/health")[2]["Access-Control-Allow-Origin"] is None
    some = Client(run_source(source_of(api_keys, cors_origins=("https://shop.example",))), wire.one)
    for origin, allowed in [("https://shop.example", "https://shop.example"), ("https://b", None)]:
        found = some.send("POST", "/v1/events", LINE, Origin=origin)[2]
        assert found["Access-Control-Allow-Origin"] == allowed


def test_health_and_ready(client: Client) -> None:
    """Both are there without a key; other paths and methods are told apart."""
    assert client.send("GET", "/health")[:2][0] == 200
    assert client.send("GET", "/ready")[1]["status"] == "ready"
    assert client.send("GET", "/v1/nothing")[0] == 404
    assert client.send("GET", "/v1/events")[0] == 405
    assert client.send("DELETE", "/health")[0] == 405


def test_a_message_is_ingested_as_it_is(client: Client, taker: Any, wire: Any) -> None:
    """One message in the wire format; its key must be that of the request if both are there."""
    message = wire.message(wire.two, [b'{"a":1}', b"{}"])
    kind = "application/x-flatbuffers"
    status, answer, _ = client.send("POST", "/v1/ingest", message, Content_Type=kind)
    assert (status, answer["accepted"]) == (202, 2)
    assert taker.messages(2) == [message.replace(wire.two, bytes(16))]
    assert client.post("/v1/ingest", message, Content_Type=kind)[0] == 403
    assert client.post("/v1/ingest", b"nothing", Content_Type=kind)[0] == 400
    assert client.post("/v1/ingest", message, Content_Type="text/plain")[0] == 415
    unknown = wire.message(bytes(range(16)), [b"{}"])
    assert client.send("POST", "/v1/ingest", unknown, Content_Type=kind)[0] == 401
    assert taker.events == 2


@pytest.mark.parametrize("options", [
    {"listen": "nowhere"}, {"trusted_proxies": ["10.0.0.0/40"]}, {"tls_key": "key.pem"},
    {"ack": "perhaps"},
])  # fmt: skip
def test_options_that_cant_be_meant(api_keys: Path, options: dict[str, Any]) -> None:
    """A configuration error names the key."""
    with pytest.raises(ConfigError, match=next(iter(options)).split("_", 1)[0]):
        source_of(api_keys, **options)


def test_a_taken_port_is_a_configuration_error(api_keys: Path, taker: Any) -> None:
    """It names the address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=listen):
            source_of(api_keys, listen=listen).run(taker, threading.Event())
