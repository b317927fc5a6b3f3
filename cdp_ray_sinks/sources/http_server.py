"""The HTTP source at work: serves SDKs of browsers and servers, and whoever speaks NDJSON.

aiohttp's server reads requests in one thread; `http_intake` makes batches of their bodies in
another. A body that finds too much under way gets 503, and the client sends it again. With
`ack = "durable"` a 202 means that its events are durable in every required sink. A request
is answered once, but a client that never sees the answer sends it again: at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import threading
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import msgspec
from aiohttp import web

from cdp_ray_sinks.sources.address import TrustedPeers, address_text, open_listener
from cdp_ray_sinks.sources.api_keys import ApiKeys
from cdp_ray_sinks.sources.base import BatchTaker, SourceContext
from cdp_ray_sinks.sources.http import HttpConfig
from cdp_ray_sinks.sources.http_connections import HttpConnections
from cdp_ray_sinks.sources.http_intake import (
    INGEST,
    INTAKE_COUNTERS,
    Answer,
    Intake,
    Job,
    RefusedBodyError,
)
from cdp_ray_sinks.sources.http_requests import (
    BODY_PATHS,
    check_content_type,
    client_ip,
    has_key,
    is_gzip,
    key_of,
)
from cdp_ray_sinks.sources.key_watch import KeyFileWatch
from cdp_ray_sinks.sources.tls_connection import server_context

_BACKLOG: Final = 1024
_STOP_CHECK_S: Final = 0.05
_SLOW_CHECK_S: Final = 0.5
_BODY_OVERHEAD_BYTES: Final = 1024
"""What a body weighs besides its bytes."""
_RETRY_AFTER_S: Final = 1
_PREFLIGHT_S: Final = 86_400
_ALLOWED_HEADERS: Final = "Authorization, Content-Encoding, Content-Type, X-API-Key"
_COUNTERS: Final = (
    "bytes", "requests", "requests_bad", "requests_refused", "requests_failed", "requests_late",
    "auth_failures", "connections_active", "connections_total", "connections_refused",
    "connections_slow",
)  # fmt: skip
_ERRORS: Final = (
    "requests_bad", "requests_refused", "requests_failed", "requests_late", "auth_failures",
    "lines_rejected", "messages_malformed", "connections_refused", "connections_slow",
)  # fmt: skip


class HttpSource:
    """Listens from `run` on until `stop`; `ready` is set once clients can connect."""

    def __init__(self, config: HttpConfig, context: SourceContext) -> None:
        self._config = config
        self._name = context.name
        self._clock = context.clock
        self._trusted = TrustedPeers(config.trusted_proxies or None)
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._intake: Intake | None = None
        self._keys: ApiKeys | None = None
        self._key_watch: KeyFileWatch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held_bytes = 0
        self._is_ending = False
        self._answers: list[tuple[asyncio.Future[Answer], int, Answer]] = []
        self._request_prefix = secrets.token_hex(6)
        self._request_numbers = count(1)
        self._encode = msgspec.json.Encoder().encode
        self.ready = threading.Event()
        self.address = ""
        """`host:port` that is listened on, known once `ready` is set."""

    def counters(self) -> dict[str, int]:
        """What happened so far; `errors` sums what was refused or lost."""
        counters = {**self._counters, **dict.fromkeys(INTAKE_COUNTERS, 0)}
        if self._intake is not None:
            for name, value in self._intake.counters.items():
                counters[name] += value
        counters["port"] = int(self.address.rpartition(":")[2] or 0)
        watch = self._key_watch
        counters["api_key_reloads"] = watch.reloads if watch else 0
        counters["api_key_reload_errors"] = watch.reload_errors if watch else 0
        counters["errors"] = counters["api_key_reload_errors"]
        counters["errors"] += sum(counters.get(name, 0) for name in _ERRORS)
        return counters

    def problem(self) -> str:
        """What is wrong with the key file; empty while all is well."""
        return self._key_watch.problem if self._key_watch else ""

    def progress(self) -> tuple[int, int | None]:
        """Events taken; how many will come nobody knows."""
        return (self._intake.counters["events"] if self._intake else 0), None

    def run(self, taker: BatchTaker, stop: threading.Event) -> None:
        """Listen until `stop` is set; then answer what has been received, refuse what comes.

        Raises ConfigError for a bad key file or certificate, or an address that can't be
        listened on.
        """
        self._keys = ApiKeys.load(self._config.api_keys)
        self._key_watch = KeyFileWatch(self._keys, self._config.api_keys_check_ms)
        cert, tls_key = self._config.tls_cert, self._config.tls_key
        tls = server_context(cert, tls_key, None) if cert else None
        listener = open_listener(self._config.listen, _BACKLOG)
        self.address = address_text(listener.getsockname())
        self._intake = Intake(
            self._config, taker, self._name, self._clock, self._keys, self._post_answers
        )
        with contextlib.closing(listener), self._key_watch, asyncio.Runner() as runner:
            runner.run(self._serve(listener, tls, stop))
        if self._intake.failure is not None:
            raise self._intake.failure

    async def _serve(self, listener: Any, tls: ssl.SSLContext | None, stop: Any) -> None:
        assert self._intake is not None
        self._loop = asyncio.get_running_loop()
        connections = HttpConnections(self._config, self._respond, self._counters)
        server = await self._loop.create_server(
            connections, sock=listener, backlog=_BACKLOG, ssl=tls
        )
        self._intake.start()
        self.ready.set()
        checked_at = self._loop.time()
        while not stop.is_set() and self._intake.failure is None:
            await asyncio.sleep(_STOP_CHECK_S)
            if self._loop.time() - checked_at >= _SLOW_CHECK_S:
                checked_at = self._loop.time()
                connections.close_slow()
        self._is_ending = True
        server.close()
        self._intake.end()
        until = self._loop.time() + self._config.stop_answer_s_max
        while not self._intake.join(0) and self._loop.time() < until:
            await asyncio.sleep(_STOP_CHECK_S / 5)
        await asyncio.sleep(0)
        await connections.shutdown(1)

    # -- answers of the intake ----------------------------------------------------------

    def _deliver(self, future: asyncio.Future[Answer], held_bytes: int) -> Callable[..., None]:
        """For a job: what becomes of it, told in the intake's thread, posted at its turn's end."""

        def deliver(job: Job, answer: Answer) -> None:
            self._answers.append((future, held_bytes, answer))

        return deliver

    def _post_answers(self) -> None:
        if not self._answers or self._loop is None:
            return
        answers, self._answers = self._answers, []
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._settle, answers)

    def _settle(self, answers: list[tuple[asyncio.Future[Answer], int, Answer]]) -> None:
        for future, held_bytes, answer in answers:
            self._held_bytes -= held_bytes
            if not future.done():
                future.set_result(answer)

    # -- requests -----------------------------------------------------------------------

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for a connection that is gone."""
        self._counters["requests"] += 1
        if request.method == "OPTIONS":
            response = web.Response(status=204, headers=_PREFLIGHT_HEADERS)
        elif request.path in BODY_PATHS:
            response = await self._respond_to_body(request)
        else:
            response = self._respond_to_check(request)
        self._allow_origin(request, response)
        response.headers["Server"] = "cdp-sinks"
        return response

    def _respond_to_check(self, request: web.BaseRequest) -> web.Response:
        if request.path not in ("/health", "/ready"):
            return self._refusal(404, "no such path")
        if request.method not in ("GET", "HEAD"):
            return self._refusal(405, "GET is wanted here", Allow="GET, HEAD")
        if request.path == "/health":
            return self._json(200, {"status": "ok"})
        if self._is_ending or self._held_bytes >= self._config.in_flight_bytes_max:
            return self._refusal(503, "ending" if self._is_ending else "too much is under way")
        return self._json(200, {"status": "ready"})

    async def _respond_to_body(self, request: web.BaseRequest) -> web.Response:
        if request.method != "POST":
            return self._refusal(405, "POST is wanted here", Allow="POST, OPTIONS")
        schema_type = int(BODY_PATHS[request.path])
        assert self._keys is not None
        key = key_of(request)
        workspace_id = self._keys.workspace_of(key) if key else 0
        if not workspace_id and (schema_type != INGEST or has_key(request)):
            self._counters["auth_failures"] += 1
            text = "an api key is wanted" if not has_key(request) else "unknown api key"
            return self._refusal(401, text, **{"WWW-Authenticate": "Bearer"})
        if self._is_ending:
            return self._refusal(503, "ending")
        try:
            check_content_type(request, schema_type)
            is_packed = is_gzip(request)
            body = await self._body_of(request)
        except RefusedBodyError as error:
            headers = {"Accept-Encoding": "gzip"} if error.status == 415 else {}
            return self._refusal(error.status, str(error), **headers)
        peer = request.transport.get_extra_info("peername") if request.transport else None
        forwarded = request.headers.getall("X-Forwarded-For", ())
        peer_ip = client_ip(peer[0] if peer else "0.0.0.0", list(forwarded), self._trusted)
        answer = await self._answer_to(
            Job(schema_type, body, is_packed, workspace_id, key, peer_ip, _nobody)
        )
        return self._response_of(answer)

    async def _body_of(self, request: web.BaseRequest) -> bytes:
        """The whole body, counted as held; RefusedBodyError if it is too large or too late."""
        bytes_max = self._config.body_bytes_max
        too_large = RefusedBodyError(413, f"a body may have {bytes_max} bytes")
        if (request.content_length or 0) > bytes_max:
            raise too_large
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        parts: list[bytes] = []
        size, held_bytes = 0, _BODY_OVERHEAD_BYTES
        self._held_bytes += held_bytes
        is_whole = False
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                while part := await request.content.readany():
                    size += len(part)
                    held_bytes += len(part)
                    self._held_bytes += len(part)
                    self._counters["bytes"] += len(part)
                    if size > bytes_max:
                        raise too_large
                    if self._held_bytes > self._config.in_flight_bytes_max:
                        raise RefusedBodyError(503, "too much is under way")
                    parts.append(part)
            is_whole = True
        except TimeoutError:
            raise RefusedBodyError(408, "the body did not come in time") from None
        except (web.RequestPayloadError, ValueError) as error:
            if isinstance(error, RefusedBodyError):
                raise
            raise RefusedBodyError(400, "the body is not framed as its head says") from None
        finally:
            if not is_whole:
                self._held_bytes -= held_bytes
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _answer_to(self, job: Job) -> Answer:
        """Hand a body to the intake and wait; its bytes stay counted until it is read."""
        assert self._loop is not None
        assert self._intake is not None
        future: asyncio.Future[Answer] = self._loop.create_future()
        job.deliver = self._deliver(future, len(job.body) + _BODY_OVERHEAD_BYTES)
        self._intake.put(job)
        try:
            async with asyncio.timeout(self._config.ack_timeout_s):
                return await future
        except TimeoutError:
            job.is_abandoned = True
            self._counters["requests_late"] += 1
            return Answer(503, error=f"not kept within {self._config.ack_timeout_s:g} s")

    # -- responses ----------------------------------------------------------------------

    def _response_of(self, answer: Answer) -> web.Response:
        if answer.error:
            return self._refusal(answer.status, answer.error)
        content: dict[str, Any] = {"accepted": answer.accepted}
        if answer.rejected:
            content["rejected"] = answer.rejected
            content["errors"] = [
                {"line": problem.line, "error": problem.reason} for problem in answer.problems
            ]
            if answer.status == 400:
                self._counters["requests_bad"] += 1
        return self._json(answer.status, content)

    def _refusal(self, status: int, error: str, **headers: str) -> web.Response:
        if status == 503:
            self._counters["requests_refused"] += 1
            headers["Retry-After"] = str(_RETRY_AFTER_S)
        elif status != 401:
            self._counters["requests_bad"] += 1
        response = self._json(status, {"error": error}, **headers)
        if status in (408, 413) or self._is_ending:
            response.force_close()
        return response

    def _json(self, status: int, content: dict[str, Any], **headers: str) -> web.Response:
        content["request_id"] = f"{self._request_prefix}-{next(self._request_numbers)}"
        return web.Response(
            body=self._encode(content),
            status=status,
            headers=headers,
            content_type="application/json",
        )

    def _allow_origin(self, request: web.BaseRequest, response: web.Response) -> None:
        origin, allowed = request.headers.get("Origin"), self._config.cors_origins
        if origin is None or not ("*" in allowed or origin in allowed):
            return
        response.headers["Access-Control-Allow-Origin"] = "*" if "*" in allowed else origin
        response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        if "*" not in allowed:
            response.headers["Vary"] = "Origin"


_PREFLIGHT_HEADERS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
    "Access-Control-Max-Age": str(_PREFLIGHT_S),
}


def _nobody(job: Job, answer: Answer) -> None:
    """Stands in a job until it is queued."""
