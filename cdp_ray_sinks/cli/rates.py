"""The option `--rate`: bytes or events a second, as people write it."""

from __future__ import annotations

import re
from typing import Final

from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.sources.send import Rate

_RATE: Final = re.compile(
    r"(?P<number>\d+(?:\.\d+)?) ?(?P<power>[kmg]i?)? ?(?P<unit>b|ev|events)?(?:/s)?", re.IGNORECASE
)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3}


def parse_rate(text: str) -> Rate:
    """`10MB`, `10MiB`, `1000000` are bytes; `50000ev`, `50kev` events. ConfigError otherwise."""
    found = _RATE.fullmatch(text.strip())
    power = (found["power"] or "").lower() if found else ""
    unit = (found["unit"] or "").lower() if found else ""
    is_wrong = found is None or (power and not unit) or (power.endswith("i") and unit != "b")
    if found is None or is_wrong or float(found["number"]) == 0:
        raise ConfigError(f"--rate {text}: write bytes a second as 10MB, or events as 50000ev")
    base = 1024 if power.endswith("i") else 1000
    per_s = float(found["number"]) * base ** _POWERS[power.removesuffix("i")]
    return Rate(per_s, "bytes" if unit in ("", "b") else "events")
