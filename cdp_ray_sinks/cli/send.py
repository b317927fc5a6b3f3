"""`cdp-sinks send`: play a file of raw frames to a tcp source."""

from __future__ import annotations

import time
from pathlib import Path

from cdp_ray_sinks.cli.output import bytes_text, count_text, print_json
from cdp_ray_sinks.cli.progress import byte_bar
from cdp_ray_sinks.errors import ConfigError, CorruptSegmentError
from cdp_ray_sinks.sources.address import parse_listen
from cdp_ray_sinks.sources.send import send_frames


def send_file(path: Path, to: str, bytes_per_s_max: int | None, as_json: bool) -> int:
    """Send the frames over one connection; 1 if the receiver did not read them all."""
    try:
        host, port = parse_listen(to)
    except ValueError as error:
        raise ConfigError(f"--to {error}") from None
    if not host or not port:
        raise ConfigError(f"--to {to!r}: name the host and the port to send to")
    started_s = time.monotonic()
    try:
        with byte_bar("sending") as advance:
            sent = send_frames(path, host, port, bytes_per_s_max=bytes_per_s_max, progress=advance)
    except CorruptSegmentError as error:
        raise ConfigError(str(error)) from None
    elapsed_s = time.monotonic() - started_s
    if as_json:
        print_json(
            {
                "frames": sent.frames,
                "bytes": sent.bytes,
                "elapsed_s": round(elapsed_s, 3),
                "taken": sent.is_taken,
            }
        )
    else:
        rate = bytes_text(sent.bytes / elapsed_s if elapsed_s else 0)
        text = "" if sent.is_taken else "; the receiver did not say that it read all of them"
        print(f"{count_text(sent.frames)} frames, {bytes_text(sent.bytes)}, {rate}/s{text}")
    return 0 if sent.is_taken else 1
