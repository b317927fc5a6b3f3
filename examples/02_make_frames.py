"""Make a file of frames such as a client would send, for 02_tcp_archive.toml.

    python examples/02_make_frames.py

Writes quickstart-data/frames.bin: 100,000 events under the first key of api_keys.conf.
"""

from __future__ import annotations

import time
from pathlib import Path

from cdp_ray_sinks import SyntheticConfig
from cdp_ray_sinks.sources.synthetic import synthetic_frames

FRAMES = Path("quickstart-data/frames.bin")
API_KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")


def main() -> None:
    """Write the file."""
    config = SyntheticConfig(events=100_000, log_share=0.1)
    FRAMES.parent.mkdir(exist_ok=True)
    with FRAMES.open("wb") as file:
        for frames in synthetic_frames(config, API_KEY, time.time_ns() // 1_000_000):
            file.write(frames)
    print(f"{FRAMES}: {FRAMES.stat().st_size} bytes")


if __name__ == "__main__":
    main()
