"""The forwarder's frames, read again at the other end, whatever happens to the connection."""

from __future__ import annotations

import contextlib
import re
import struct
import time
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_ray_sinks.batch.batch import Batch
from cdp_ray_sinks.batch.builder import batch_of_messages
from cdp_ray_sinks.batch.enums import FRAME_BYTES_MAX
from cdp_ray_sinks.errors import ConfigError, PartialWriteError, TerminalError, TransientError
from cdp_ray_sinks.sinks.base import SinkContext
from cdp_ray_sinks.sinks.forwarder import ForwarderSink
from cdp_ray_sinks.sinks.registry import load_config
from cdp_ray_sinks.testing import numbered_events
from cdp_ray_sinks.writers.forward_frames import FrameWrapper

KEY = bytes.fromhex("0123456789abcdef0123456789abcdef")
CLIENT_IP = bytes.fromhex("20010db8000000000000000000000042")


@pytest.fixture
def collector(collectors: Any) -> Iterator[Any]:
    """A `Collector` of collector_lab.py that listens."""
    made = collectors.Collector()
    yield made
    made.close()


def opened(collector: Any, **options: Any) -> ForwarderSink:
    if collector is not None:
        options["target"] = collector.target
    sink = load_config("forwarder", {"api_key": KEY.hex(), **options}).build(SinkContext("far"))
    assert isinstance(sink, ForwarderSink)
    sink.open()
    return sink


def sent_envelope(
    data: bytes, slots: int, batch_id: int, version: int | None, source_ip: bytes | None
) -> bytes:
    """A message as a general builder lays it out, with or without the optional fields."""
    builder = flatbuffers.Builder(64)
    data_at, key_at = builder.CreateByteVector(data), builder.CreateByteVector(b"k" * 16)
    ip_at = None if source_ip is None else builder.CreateByteVector(source_ip)
    builder.StartObject(slots)
    builder.PrependUOffsetTRelativeSlot(0, key_at, 0)
    builder.PrependUint8Slot(1, 2, 0)
    if version is not None:
        builder.PrependUint8Slot(2, version, 0)
    builder.PrependUint64Slot(3, batch_id, 0)
    builder.PrependUOffsetTRelativeSlot(4, data_at, 0)
    if ip_at is not None:
        builder.PrependUOffsetTRelativeSlot(5, ip_at, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def number_in(data: bytes) -> int:
    """The running number in the payload of a message's one event."""
    return int(re.search(rb'"n":(\d+)', data)[1])  # type: ignore[index]


def tried(step: Any, *arguments: Any) -> None:
    """Do it again and again, as a lane does, until no receiver is to blame."""
    while True:
        with contextlib.suppress(TransientError):
            step(*arguments)
            return
        time.sleep(0.002)


def rewrapped(batch: Batch, **options: Any) -> bytes:
    """All the frames of a batch."""
    wrapped = FrameWrapper(KEY, **options).wrap(batch, is_sliceable=True)
    assert wrapped.refused == []
    stream = b"".join(wrapped.pieces)
    assert len(stream) == wrapped.frame_bytes
    return stream


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=300),
            st.integers(0, 2**64 - 1),
            st.none() | st.integers(0, 255),
            st.none() | st.binary(max_size=20),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([0, 10**9]),
)
def test_a_message_keeps_all_but_key_and_address(
    collectors: Any,
    contents: list[tuple[bytes, int, int | None, bytes | None]],
    sliced_bytes_min: int,
) -> None:
    """Copied or in slices, whatever optional fields it had; the reference reader agrees."""
    messages = [sent_envelope(data, 6, *rest) for data, *rest in contents]
    batch = batch_of_messages(messages, source_ip=CLIENT_IP)
    found = collectors.whole_messages(rewrapped(batch, sliced_bytes_min=sliced_bytes_min), False)
    assert [collectors.parsed(message) for message in found] == [
        {
            "key": KEY,
            "schema": 2,
            "version": version or 0,
            "batch_id": batch_id,
            "source_ip": CLIENT_IP,
            "data": data,
        }
        for data, batch_id, version, _ in contents
    ]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_messages_are_named_and_the_others_go(collectors: Any, data: st.DataObject) -> None:
    """Bytes changed at random make a frame that holds, or a refusal; never anything else."""
    messages = [bytearray(sent_envelope(b"d" * 20, 6, 7, 100, None)) for _ in range(4)]
    batch = batch_of_messages([bytes(message) for message in messages])
    records = batch.records.copy()
    for _ in range(data.draw(st.integers(1, 30))):
        place = data.draw(st.integers(0, len(records) - 1))
        records[place] = data.draw(st.integers(0, 255))
    wrapped = FrameWrapper(KEY).wrap(Batch(batch.header, records, batch.offsets), is_sliceable=True)
    found = collectors.whole_messages(b"".join(wrapped.pieces), False)
    assert len(found) == wrapped.frame_count
    assert len(found) + len(wrapped.refused) == 4


def test_what_is_larger_than_a_frame_is_refused_by_name(collectors: Any, collector: Any) -> None:
    """The envelope makes a message larger; the others of its batch are sent."""
    fits = FRAME_BYTES_MAX - 96
    messages = [sent_envelope(bytes(count), 6, 0, 1, None) for count in (5, fits + 1, fits)]
    sink = opened(collector)
    with pytest.raises(PartialWriteError, match=r"larger than .* under its new") as caught:
        sink.write(batch_of_messages(messages))
    sink.close()
    assert caught.value.failed_messages == (1,)
    collectors.wait_until(lambda: len(collector.messages()) == 2)


@pytest.mark.parametrize("message_bytes", [100, 200_000])
def test_batches_arrive_whole_and_in_order(
    collectors: Any, collector: Any, message_bytes: int
) -> None:
    """Small messages and large ones, which are sent in slices, through one connection."""
    sink = opened(collector)
    for number in range(20):
        sink.write(numbered_events(number, 1, message_bytes, 30))
        if number % 3 == 0:
            sink.flush()
    sink.close()
    collectors.wait_until(lambda: len(collector.messages()) == 600)
    found = [collectors.parsed(message) for message in collector.messages()]
    assert {each["key"] for each in found} == {KEY}
    numbers = [number_in(each["data"]) for each in found]
    assert numbers == [number for number in range(20) for _ in range(30)]
    assert len(collector.streams) == 1


def test_what_a_cut_leaves_in_doubt_is_sent_again(collectors: Any, collector: Any) -> None:
    """The receiver resets the connection in the middle; in the end it has every message."""
    sink = opened(collector, write_timeout_s=5)
    collector.reads_max = 1_000_000
    for number in range(40):
        tried(sink.write, numbered_events(number, 1, 2_000, 50))
        tried(sink.flush)
    sink.close()
    assert sink.counters()["connections_lost"] >= 1
    collectors.wait_until(lambda: len(collector.messages()) >= 2000)
    found = [number_in(collectors.parsed(message)["data"]) for message in collector.messages()]
    assert set(found) == set(range(40))
    assert all(found.count(number) >= 50 for number in range(40))


def test_a_receiver_that_is_away_is_named_and_taken_when_it_is_back(collectors: Any) -> None:
    """Refused at first; the batch that was not taken is written again."""
    gone = collectors.Collector()
    port = gone.port
    gone.close()
    sink = opened(None, target=f"127.0.0.1:{port}")
    batch = numbered_events(1, messages=5)
    with pytest.raises(TransientError, match=f"127.0.0.1:{port}: Connection refused"):
        sink.write(batch)
    back = collectors.Collector(port=port)
    sink.write(batch)
    sink.close()
    collectors.wait_until(lambda: len(back.messages()) == 5)
    back.close()


def test_a_connection_closed_while_idle_costs_nothing(collectors: Any, collector: Any) -> None:
    """It is noticed before the next batch goes into it."""
    sink = opened(collector)
    sink.write(numbered_events(1, messages=5))
    sink.flush()
    collectors.wait_until(lambda: len(collector.messages()) == 5)
    collector.cut()
    with pytest.raises(TransientError):
        sink.write(numbered_events(2, messages=5))
    sink.write(numbered_events(2, messages=5))
    sink.close()
    collectors.wait_until(lambda: len(collector.messages()) == 10)


def test_the_second_target_takes_over(collectors: Any, collector: Any) -> None:
    """Failover: what the first had not confirmed goes to the second."""
    second = collectors.Collector()
    sink = opened(None, targets=[collector.target, second.target])
    sink.write(numbered_events(1, messages=5))
    sink.flush()
    collectors.wait_until(lambda: len(collector.messages()) == 5)
    collector.close()
    with pytest.raises(TransientError):
        sink.write(numbered_events(2, messages=5))
    sink.write(numbered_events(2, messages=5))
    sink.close()
    collectors.wait_until(lambda: len(second.messages()) == 5)
    second.close()


def test_round_robin_takes_turns(collectors: Any, collector: Any) -> None:
    """Each target gets every other batch; one that is away is left out."""
    second = collectors.Collector()
    sink = opened(None, targets=[collector.target, second.target], balance="round_robin")
    for number in range(10):
        sink.write(numbered_events(number, messages=2))
    sink.flush()
    collectors.wait_until(lambda: len(collector.messages()) == len(second.messages()) == 10)
    second.close()
    for number in range(10):
        tried(sink.write, numbered_events(number, messages=2))
        tried(sink.flush)
    sink.close()
    collectors.wait_until(lambda: len(collector.messages()) >= 30)


def test_a_receiver_that_does_not_read_is_given_up(collectors: Any, collector: Any) -> None:
    """After `write_timeout_s`, with a text that says so."""
    collector.may_read.clear()
    sink = opened(collector, write_timeout_s=1)
    with pytest.raises(TransientError, match="takes nothing for 1 s"):  # noqa: PT012
        for number in range(20):
            sink.write(numbered_events(number, 1, 200_000, 30))
    collector.may_read.set()


def test_offsets_that_do_not_fit_are_refused(collectors: Any, collector: Any) -> None:
    """Nothing of such a batch is sent."""
    batch = numbered_events(1, messages=3)
    sink = opened(collector)
    with pytest.raises(TerminalError, match="offsets"):
        sink.write(Batch(batch.header, batch.records[:-1], batch.offsets))
    sink.close()
    assert collector.messages() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "far"}, "expected host:port"),
        ({"target": "far:0"}, "expected host:port"),
        ({"target": "far:1", "api_key": "12"}, "32 hexadecimal digits"),
        ({}, "either target or targets"),
        ({"target": "far:1", "targets": ["far:2"]}, "either target or targets"),
        ({"target": "far:1", "ca_cert": "x.pem"}, "need tls = true"),
        ({"target": "far:1", "tls": True, "client_key": "x.pem"}, "without client_cert"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], text: str) -> None:
    """The key, and what is expected; never the text of an api key."""
    with pytest.raises(ConfigError, match=text) as caught:
        load_config("forwarder", {"api_key": KEY.hex(), **options})
    assert KEY.hex() not in str(caught.value)


def test_the_frames_are_what_a_collector_takes() -> None:
    """The envelope is laid out once and for all: these bytes."""
    message = sent_envelope(b"\x01\x02\x03", 6, 5, 100, None)
    stream = rewrapped(batch_of_messages([message], source_ip=CLIENT_IP))
    assert stream == (
        struct.pack(">I", 99)
        + struct.pack("<I8HI", 24, 16, 28, 4, 24, 25, 16, 8, 12, 0)
        + struct.pack("<iIIIQBBH", 20, 24, 60, 36, 5, 2, 100, 0)
        + struct.pack("<I16sI16s", 16, KEY, 16, CLIENT_IP)
        + struct.pack("<I3s", 3, b"\x01\x02\x03")
    )
    assert np.frombuffer(stream, np.uint8).nbytes == 103
