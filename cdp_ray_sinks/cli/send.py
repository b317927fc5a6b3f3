"""`cdp-sinks send`: play archives or files of raw frames to a tcp or http source."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from cdp_ray_sinks.cli.archive_reading import check_paths
from cdp_ray_sinks.cli.output import Complaints, bytes_text, count_text, print_json, say
from cdp_ray_sinks.cli.progress import byte_bar
from cdp_ray_sinks.cli.rates import parse_rate
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError, TransientError
from cdp_ray_sinks.files.archive import stored_bytes
from cdp_ray_sinks.files.archive_reading import ALL, selected_segments
from cdp_ray_sinks.files.selection import Selection
from cdp_ray_sinks.placeholders import has_placeholder, resolve
from cdp_ray_sinks.sinks.forwarder_peer import TlsOptions
from cdp_ray_sinks.sources.address import parse_listen
from cdp_ray_sinks.sources.framing import FrameBlock, Framer, check_frames, holds_frames
from cdp_ray_sinks.sources.send import Sent, connect, send_blocks
from cdp_ray_sinks.sources.send_acked import send_units
from cdp_ray_sinks.sources.send_http import post_blocks

EXIT_INTERRUPTED: Final = 130
_KEY: Final = re.compile(r"[0-9A-Fa-f]{32}")


def send_paths(
    paths: Sequence[Path],
    to: str,
    rate_text: str | None,
    key_text: str | None,
    as_json: bool,
    selection: Selection = ALL,
    tls: TlsOptions | None = None,
    is_acked: bool = False,
) -> int:
    """Send what is selected, path by path: over one connection, in ack mode as many as it needs.

    `to` is HOST:PORT of a tcp source, or http(s)://HOST:PORT of an http source.

    1 if the receiver did not read it all, or something could not be sent; 130 after Ctrl-C.
    """
    is_http = to.startswith(("http://", "https://"))
    if is_http and is_acked:
        raise ConfigError("--ack: every message is answered over HTTP anyway")
    host, port = ("", 0) if is_http else _receiver(to)
    rate = None if rate_text is None else parse_rate(rate_text)
    plan = _Plan(paths, _api_key(key_text), selection, is_acked=is_acked)
    context = None if tls is None else tls.context()
    stop = threading.Event()
    started_s = time.monotonic()
    with byte_bar("sending", is_quiet=as_json) as advance, _interrupt_sets(stop):

        def progress(done_bytes: int) -> None:
            if advance is not None:
                advance(done_bytes, plan.total_bytes)

        def reach() -> socket.socket:
            peer = connect(host, port)
            return peer if context is None else _with_tls(peer, context, tls, host)

        if is_http:
            sent = post_blocks(
                plan.blocks(), to, tls=context, rate=rate, progress=progress, stop=stop
            )
        elif is_acked:
            sent = send_units(plan.blocks(), reach, rate=rate, progress=progress, stop=stop)
        else:
            with reach() as peer:
                sent = send_blocks(plan.blocks(), peer, rate=rate, progress=progress, stop=stop)
    plan.tell_rest()
    _print_report(sent, plan, time.monotonic() - started_s, stop.is_set(), as_json)
    if stop.is_set():
        return EXIT_INTERRUPTED
    return 0 if sent.is_taken and plan.is_whole else 1


def _with_tls(
    peer: socket.socket, context: ssl.SSLContext, tls: TlsOptions | None, host: str
) -> socket.socket:
    name = tls.server_name if tls is not None and tls.server_name else host
    try:
        return context.wrap_socket(peer, server_hostname=name)
    except OSError as error:
        peer.close()
        raise TransientError(f"{host}: TLS: {error.strerror or error}") from None


class _Plan:
    """What is to be sent, looked at before anybody is connected to.

    Raises ConfigError for what can't be sent at all.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        key: bytes | None,
        selection: Selection,
        *,
        is_acked: bool = False,
    ) -> None:
        check_paths(paths, takes_frames=True)
        self._selection = selection
        self._parts = [
            (path, not path.is_dir() and holds_frames(path) is not False) for path in paths
        ]
        self._skipped = Complaints("not sent")
        self._damaged = Complaints("damaged")
        self._framer = Framer(key, self._skipped.tell)
        self._workspaces: set[int] = set()
        self.total_bytes = 0
        for path, is_frames in self._parts:
            if is_frames and is_acked:
                raise ConfigError(f"{path}: a file of frames; --ack is for archives")
            if is_frames:
                self._add_frames(path)
            elif key is None:
                raise ConfigError(
                    f"{path}: an archive keeps no api keys; say under which its messages are to "
                    "be sent, by --api-key '${NAME}' or '${file:PATH}'"
                )
            else:
                self._add_archive(path)
        if len(self._workspaces) > 1:
            count = count_text(len(self._workspaces))
            say(f"warning: {count} workspaces go under one key; --workspace picks one of them")

    def _add_frames(self, path: Path) -> None:
        if self._selection != ALL:
            raise ConfigError(f"{path}: a file of frames goes whole; only archives have filters")
        try:
            check_frames(path)
        except CorruptSegmentError as error:
            raise ConfigError(str(error)) from None
        self.total_bytes += stored_bytes(path)

    def _add_archive(self, path: Path) -> None:
        for info in selected_segments(path, self._selection):
            self.total_bytes += stored_bytes(info.path)
            if info.workspace_id is not None:
                self._workspaces.add(info.workspace_id)

    def blocks(self) -> Iterator[FrameBlock]:
        """The frames of all paths."""
        done_bytes = 0
        for path, is_frames in self._parts:
            read_bytes = 0
            for block in self._blocks_of(path, is_frames):
                read_bytes = block.read_bytes
                yield block._replace(read_bytes=done_bytes + read_bytes)
            done_bytes += read_bytes

    def _blocks_of(self, path: Path, is_frames: bool) -> Iterator[FrameBlock]:
        if is_frames:
            return self._framer.of_file(path)
        return self._framer.of_archive(path, self._damaged.tell, self._selection)

    @property
    def skipped(self) -> int:
        """Messages that could not be sent."""
        return self._skipped.count

    @property
    def is_whole(self) -> bool:
        """Whether all that was asked for could be read and sent."""
        return not self._skipped.count and not self._damaged.count

    def tell_rest(self) -> None:
        """How much more was complained of than shown."""
        self._skipped.tell_rest()
        self._damaged.tell_rest()


def _print_report(
    sent: Sent, plan: _Plan, elapsed_s: float, is_interrupted: bool, as_json: bool
) -> None:
    if as_json:
        report = {
            "frames": sent.frames,
            "events": sent.events,
            "bytes": sent.bytes,
            "skipped": plan.skipped,
            "elapsed_s": round(elapsed_s, 3),
            "taken": sent.is_taken,
        }
        print_json(report)
        return
    a_second = 1 / elapsed_s if elapsed_s else 0
    parts = [
        f"{count_text(sent.frames)} frames with {count_text(sent.events)} events",
        f"{bytes_text(sent.bytes)} in {elapsed_s:.1f} s",
        f"{count_text(sent.events * a_second)} events/s",
        f"{bytes_text(sent.bytes * a_second)}/s",
    ]
    text = ", ".join(parts)
    if plan.skipped:
        text += f"; {count_text(plan.skipped)} messages not sent"
    if is_interrupted:
        text += "; interrupted"
    if not sent.is_taken:
        text += "; the receiver did not say that it read all of them"
    print(text)


def _receiver(to: str) -> tuple[str, int]:
    try:
        host, port = parse_listen(to)
    except ValueError as error:
        raise ConfigError(f"--to {error}") from None
    if not host or not port:
        raise ConfigError(f"--to {to!r}: name the host and the port to send to")
    return host, port


def _api_key(text: str | None) -> bytes | None:
    """The 16 bytes that the option means; an error never shows any of them."""
    if text is None:
        return None
    if has_placeholder(text) and _KEY.search(text):
        raise ConfigError("--api-key: write either 32 hex digits or a placeholder, not both")
    try:
        key = resolve(text, os.environ).strip()
    except ConfigError as error:
        raise ConfigError(f"--api-key {error}") from None
    if _KEY.fullmatch(key) is None:
        raise ConfigError(f"--api-key: must be 32 hex digits, this has {len(key)} characters")
    if not int(key, 16):
        raise ConfigError("--api-key: the all-zero key stands for a removed key in archives")
    return bytes.fromhex(key)


@contextmanager
def _interrupt_sets(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C sets `stop`, a second one is the usual interrupt."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
