"""The numbers of the wire protocol that have names."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

API_KEY_BYTES: Final = 16
ID_BYTES: Final = 16
METADATA_BYTES: Final = 24
LENGTH_BYTES: Final = 4
RECORD_PREFIX_BYTES: Final = METADATA_BYTES + LENGTH_BYTES
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
PROTOCOL_VERSION: Final = 100
NO_TIME_MS: Final = -1
"""Stands for "event time not known" in headers and indexes."""


class SchemaType(IntEnum):
    """What a message holds."""

    UNKNOWN = 0
    EVENT = 1
    LOG = 2
    METRIC = 3
    TRACE = 4
    SNAPSHOT = 5


class EventType(IntEnum):
    """What kind of event, for EVENT messages."""

    UNKNOWN = 0
    TRACK = 1
    IDENTIFY = 2
    GROUP = 3
    ALIAS = 4
    ENRICH = 5
    CONTEXT = 6


class LogEventType(IntEnum):
    """What kind of log entry."""

    UNKNOWN = 0
    LOG = 1
    ENRICH = 2


class LogLevel(IntEnum):
    """Severity of a log entry; absent on the wire means INFO."""

    EMERGENCY = 0
    ALERT = 1
    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7
    TRACE = 8


class MetricType(IntEnum):
    """What a metric measures."""

    UNKNOWN = 0
    GAUGE = 1
    COUNTER = 2
    HISTOGRAM = 3


class Temporality(IntEnum):
    """Over what time a metric's value counts."""

    UNSPECIFIED = 0
    CUMULATIVE = 1
    DELTA = 2


class SpanKind(IntEnum):
    """The side of a call that a span describes."""

    UNSPECIFIED = 0
    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class SpanStatus(IntEnum):
    """How a span ended."""

    UNSET = 0
    OK = 1
    ERROR = 2
