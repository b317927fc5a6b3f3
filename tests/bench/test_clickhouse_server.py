"""The server out of the chdb wheel, which tests and benchmarks use."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from cdp_ray_sinks.bench.clickhouse_entry import KNOWN_ENTRIES, _Elf, library_path
from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer


def test_the_entry_is_found_in_a_build_that_nobody_knows() -> None:
    """The search finds what is noted for the pinned build, so another build has a chance."""
    library = _Elf(library_path())
    found = library.entry() - library.symbol(b"PyInit__chdb")
    assert KNOWN_ENTRIES[library.build_id()] == found


def test_what_is_no_such_library_is_refused(tmp_path: Path) -> None:
    """With a reason."""
    (tmp_path / "x.so").write_bytes(b"#!/bin/sh\n")
    with pytest.raises(LookupError, match="no ELF library"):
        _Elf(tmp_path / "x.so")
    with pytest.raises(LookupError, match="exports no nothing"):
        _Elf(library_path()).symbol(b"nothing")


def test_data_outlives_a_kill(tmp_path: Path) -> None:
    """The same port and the same rows after it; and it says why it can't start."""

    def ask(sql: str) -> bytes:
        with urllib.request.urlopen(f"{server.url}/", data=sql.encode(), timeout=30) as answer:
            return bytes(answer.read())

    with ClickHouseServer(tmp_path) as server:
        ask("CREATE DATABASE d")
        ask("CREATE TABLE d.t (n UInt8) ENGINE = MergeTree ORDER BY n")
        ask("INSERT INTO d.t VALUES (7)")
        server.kill()
        assert not server.answers()
        assert server.pid == 0
        server.start()
        assert ask("SELECT n FROM d.t") == b"7\n"
    broken = ClickHouseServer(tmp_path / "broken", config="<no xml")
    with pytest.raises(RuntimeError, match="did not start"):
        broken.start()
