"""What accounting costs: microseconds of CPU per batch to take it and to settle it.

    python tests/benchmarks/accounts.py [--batches N] [--group N] [--directory DIR] [--json]

Tells a book of batches of 10 workspaces: each `take` has one, as `Producer.submit` does, or with
`--group` several, as `submit_packed` does; 16 are written at once and each `settle` has 16, as
under load. What is read back is compared. A batch of 1 MB costs its producer about 2000 us.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from cdp_ray_sinks.delivery.account_book import AccountBook
from cdp_ray_sinks.delivery.account_files import read_accounts
from cdp_ray_sinks.delivery.push import DURABLE, Outcomes
from cdp_ray_sinks.testing import numbered_batch

ANSWERED = 16
OUTCOMES: Outcomes = (("archive", DURABLE), ("warehouse", DURABLE))


def run(directory: Path, batches: int, group: int) -> dict[str, Any]:
    """Take and settle all, read back."""
    headers = [numbered_batch(n, 1 + n % 10, 100).header for n in range(group * 10)]
    book = AccountBook(directory, "bench", bytes(16), 1)
    take_s = settle_s = 0.0
    settled = 0
    for first in range(0, batches, group):
        some = headers[first % (group * 10) :][:group]
        began_s = time.thread_time()
        book.take(first, some)
        if first % ANSWERED < group:
            book.write_told()
        take_s += time.thread_time() - began_s
        while first - settled > 10 * ANSWERED:
            answer = [(n, OUTCOMES) for n in range(settled, settled + ANSWERED)]
            began_s = time.thread_time()
            book.settle(answer)
            settle_s += time.thread_time() - began_s
            settled += ANSWERED
    began_s = time.perf_counter()
    book.close()
    close_s = time.perf_counter() - began_s
    accounts = read_accounts(directory)
    found = sum(count.batches for count in accounts.of("archive", DURABLE).values())
    if found != settled or len(accounts.open) != batches - settled:
        raise SystemExit(f"{found} of {settled} settled, {len(accounts.open)} open")
    return {
        "batches": batches,
        "take_us": round(1e6 * take_s / batches, 2),
        "settle_us": round(1e6 * settle_s / settled, 2),
        "close_ms": round(1000 * close_s, 1),
        "held_bytes": sum(path.stat().st_size for path in directory.iterdir()),
    }


def main() -> None:
    """Print one row, as text or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=200_000)
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        row = run(Path(directory), options.batches, options.group)
    print(json.dumps(row) if options.json else "  ".join(f"{k}={v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
