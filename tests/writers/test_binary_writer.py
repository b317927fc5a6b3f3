"""What a disk_binary record is made of, and the writer that hands batches over."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_ray_sinks.errors import MalformedMessageError
from cdp_ray_sinks.writers.binary import BinaryWriter, MessageMetadata

MAPPED = bytes(10) + b"\xff\xff"


def test_metadata_bytes_are_big_endian_time_then_address() -> None:
    """Byte for byte as the format says."""
    metadata = MessageMetadata(0x0102030405060708, MAPPED + bytes([192, 168, 1, 100]))
    expected = "0102030405060708" + "00000000000000000000ffffc0a80164"
    assert metadata.to_bytes().hex() == expected
    assert MessageMetadata.METADATA_BYTES == len(metadata.to_bytes()) == 24


@given(st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16), st.binary(max_size=40))
def test_metadata_round_trips(time_ms: int, source_ip: bytes, rest: bytes) -> None:
    """Any time and address come back, whatever follows them."""
    metadata = MessageMetadata(time_ms, source_ip)
    assert MessageMetadata.from_bytes(metadata.to_bytes() + rest) == metadata


@given(st.binary(max_size=23))
def test_short_metadata_is_an_error_with_its_offset(data: bytes) -> None:
    """Fewer than 24 bytes are no metadata."""
    with pytest.raises(MalformedMessageError, match="cut short") as caught:
        MessageMetadata.from_bytes(data)
    assert caught.value.offset == len(data)


@pytest.mark.parametrize(
    ("time_ms", "source_ip"), [(-1, bytes(16)), (2**64, bytes(16)), (0, bytes(4)), (0, bytes(17))]
)
def test_what_fits_no_metadata_is_refused(time_ms: int, source_ip: bytes) -> None:
    """Nothing is cut off silently."""
    with pytest.raises(ValueError, match="no metadata can hold"):
        MessageMetadata(time_ms, source_ip).to_bytes()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (MAPPED + bytes([192, 168, 1, 100]), "192.168.1.100"),
        (MAPPED + bytes(4), "0.0.0.0"),
        (bytes(16), "::"),
        (bytes(15) + b"\x01", "::1"),
        (bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
        (bytes(12) + bytes([1, 2, 3, 4]), "::102:304"),
        (b"\xff" * 16, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ],
)
def test_addresses_are_written_as_people_do(address: bytes, text: str) -> None:
    """A mapped IPv4 address is dotted, any other is compressed IPv6."""
    assert MessageMetadata(0, address).source_ip_string() == text


@given(st.binary(min_size=16, max_size=16))
def test_every_address_can_be_written_and_parsed_back(address: bytes) -> None:
    """The text names the same address."""
    parsed = ipaddress.ip_address(MessageMetadata(0, address).source_ip_string())
    packed = parsed.packed
    assert (packed if len(packed) == 16 else MAPPED + packed) == address


def test_the_writer_hands_over_the_batches_own_bytes(maker: Any) -> None:
    """Nothing is copied: the views show the batches' buffers, read-only ones too."""
    batches = [maker.batch([b"x" * n]) for n in (20, 30)]
    views = BinaryWriter().encode(batches)
    assert [view.tobytes() for view in views] == [b.records.tobytes() for b in batches]
    assert all(
        np.shares_memory(np.frombuffer(view, np.uint8), batch.records)
        for view, batch in zip(views, batches, strict=True)
    )
    assert {view.format for view in views} == {"B"}


def test_all_schemas_go_into_one_stream(maker: Any) -> None:
    """`data.bin`, or the prefix that was asked for."""
    header = maker.batch([b"x" * 20]).header
    streams = {BinaryWriter().stream_of(header._replace(schema_type=n)) for n in range(6)}
    assert streams == {"data"}
    assert BinaryWriter("clicks").stream_of(header) == "clicks"
    assert (BinaryWriter.suffix, BinaryWriter.index_flags) == (".bin", 0)


def test_a_writer_needs_no_compiled_kernels(tmp_path: Any) -> None:
    """Importing it does not load numba: lanes are small processes."""
    import subprocess
    import sys

    code = (
        "import sys, cdp_ray_sinks.writers.binary, cdp_ray_sinks.files.archive, "
        "cdp_ray_sinks.files.rotation\n"
        "print(sorted({'numba', 'ray', 'pyarrow'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
