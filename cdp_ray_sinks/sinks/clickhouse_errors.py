"""What ClickHouse's error codes ask for.

The server numbers its errors; nothing here looks at their texts but for one number that it
uses twice. An error without a number came from the way to the server, or from a proxy.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from clickhouse_connect.driver.exceptions import Error, OperationalError, ProgrammingError

from cdp_ray_sinks.errors import ConfigError, SinkError, TransientError

TEXT_CHARACTERS_MAX: Final = 500


class Cure(Enum):
    """What may help against an error."""

    WAIT = "wait"
    """Trying again, the same bytes under the same token."""
    CONFIGURE = "configure"
    """Somebody has to change the tables, the user's rights or our configuration."""
    FEWER_ROWS = "fewer rows"
    """The block is too large for the memory that is left."""
    FEWER_PARTITIONS = "fewer partitions"
    """The block's rows lie in more partitions than one insert may have."""
    OTHER_ROWS = "other rows"
    """Some rows are not what the table takes; the others may be."""
    UNKNOWN = "unknown"
    """A number that is not in this file."""


_WAIT: Final = {
    159,  # TIMEOUT_EXCEEDED
    160,  # TOO_SLOW
    173,  # CANNOT_ALLOCATE_MEMORY
    198,  # DNS_ERROR
    201,  # QUOTA_EXCEEDED
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    225,  # NO_ZOOKEEPER
    236,  # ABORTED
    242,  # TABLE_IS_READ_ONLY
    243,  # NOT_ENOUGH_SPACE
    244,  # UNEXPECTED_ZOOKEEPER_ERROR
    252,  # TOO_MANY_PARTS
    254,  # NO_ACTIVE_REPLICAS
    279,  # ALL_CONNECTION_TRIES_FAILED
    285,  # TOO_FEW_LIVE_REPLICAS
    286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    289,  # REPLICA_IS_NOT_IN_QUORUM
    319,  # UNKNOWN_STATUS_OF_INSERT
    373,  # SESSION_IS_LOCKED
    394,  # QUERY_WAS_CANCELLED
    425,  # SYSTEM_ERROR
    439,  # CANNOT_SCHEDULE_TASK
    473,  # DEADLOCK_AVOIDED
    499,  # S3_ERROR
    519,  # NO_REMOTE_SHARD_AVAILABLE
    574,  # DISTRIBUTED_TOO_MANY_PENDING_BYTES
    677,  # THREAD_WAS_CANCELED
    733,  # TABLE_IS_BEING_RESTARTED
    735,  # QUERY_WAS_CANCELLED_BY_CLIENT
    745,  # SERVER_OVERLOADED
    749,  # TCP_CONNECTION_LIMIT_REACHED
    999,  # KEEPER_EXCEPTION
    1000,  # POCO_EXCEPTION
    1020,  # MEMORY_RESERVATION_ACQUISITION_TIMEOUT
}
_CONFIGURE: Final = {
    10,  # NOT_FOUND_COLUMN_IN_BLOCK
    16,  # NO_SUCH_COLUMN_IN_TABLE
    20,  # NUMBER_OF_COLUMNS_DOESNT_MATCH
    43,  # ILLEGAL_TYPE_OF_ARGUMENT
    44,  # ILLEGAL_COLUMN
    47,  # UNKNOWN_IDENTIFIER
    48,  # NOT_IMPLEMENTED
    50,  # UNKNOWN_TYPE
    53,  # TYPE_MISMATCH
    60,  # UNKNOWN_TABLE
    62,  # SYNTAX_ERROR
    70,  # CANNOT_CONVERT_TYPE
    81,  # UNKNOWN_DATABASE
    115,  # UNKNOWN_SETTING
    164,  # READONLY
    192,  # UNKNOWN_USER
    193,  # WRONG_PASSWORD
    194,  # REQUIRED_PASSWORD
    195,  # IP_ADDRESS_NOT_ALLOWED
    218,  # TABLE_IS_DROPPED
    291,  # DATABASE_ACCESS_DENIED
    452,  # SETTING_CONSTRAINT_VIOLATION
    472,  # READONLY_SETTING
    497,  # ACCESS_DENIED
    516,  # AUTHENTICATION_FAILED
    774,  # TABLE_IS_PERMANENTLY_READ_ONLY
}
_OTHER_ROWS: Final = {
    6,  # CANNOT_PARSE_TEXT
    25,  # CANNOT_PARSE_ESCAPE_SEQUENCE
    26,  # CANNOT_PARSE_QUOTED_STRING
    27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  # ATTEMPT_TO_READ_AFTER_EOF
    33,  # CANNOT_READ_ALL_DATA
    38,  # CANNOT_PARSE_DATE
    41,  # CANNOT_PARSE_DATETIME
    69,  # ARGUMENT_OUT_OF_BOUND
    72,  # CANNOT_PARSE_NUMBER
    117,  # INCORRECT_DATA
    128,  # TOO_LARGE_ARRAY_SIZE
    131,  # TOO_LARGE_STRING_SIZE
    321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376,  # CANNOT_PARSE_UUID
    395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    407,  # DECIMAL_OVERFLOW
    441,  # CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
    467,  # CANNOT_PARSE_BOOL
    469,  # VIOLATED_CONSTRAINT
    621,  # CANNOT_NORMALIZE_STRING
    632,  # UNEXPECTED_DATA_AFTER_PARSED_VALUE
    675,  # CANNOT_PARSE_IPV4
    676,  # CANNOT_PARSE_IPV6
    691,  # UNKNOWN_ELEMENT_OF_ENUM
}
_FEWER_ROWS: Final = {241, 777, 778}  # MEMORY_LIMIT_EXCEEDED, MEMORY_RESERVATION_KILLED, …_FAILED
_TOO_MANY_PARTS: Final = 252
_MAYBE_WRITTEN: Final = {159, 210, 209, 236, 286, 319, 394, 677, 735, 999, 1000}
"""Errors that an insert may end with although its rows are, or come to be, there."""


class ClickHouseError(SinkError):
    """The server's answer, or that there was none. `is_unsure`: the rows may be there."""

    def __init__(self, message: str, code: int | None, cure: Cure, is_unsure: bool) -> None:
        super().__init__(message, code, cure, is_unsure)
        self.message = message
        self.code = code
        self.cure = cure
        self.is_unsure = is_unsure

    def __str__(self) -> str:
        return self.message

    def for_opening(self, url: str) -> TransientError | ConfigError:
        """What it means while a sink is being opened."""
        if self.cure is Cure.WAIT:
            return TransientError(f"{url}: {self}")
        return ConfigError(f"{url}: {self}")


def cure_of(code: int | None, text: str) -> Cure:
    """What may help against an error of the server."""
    if code == _TOO_MANY_PARTS and "partitions for single INSERT block" in text:
        return Cure.FEWER_PARTITIONS
    if code in _FEWER_ROWS:
        return Cure.FEWER_ROWS
    for codes, cure in (
        (_WAIT, Cure.WAIT),
        (_CONFIGURE, Cure.CONFIGURE),
        (_OTHER_ROWS, Cure.OTHER_ROWS),
    ):
        if code in codes:
            return cure
    return Cure.UNKNOWN


def clickhouse_error(error: Error) -> ClickHouseError:
    """The client library's error in our words."""
    code = getattr(error, "code", None)
    if code is None and isinstance(error, OperationalError):
        return ClickHouseError(_transport_text(error), None, Cure.WAIT, True)
    text = _server_text(str(error))
    if isinstance(error, ProgrammingError) and code is None:  # the library's own: nothing was sent
        return ClickHouseError(text, None, Cure.CONFIGURE, False)
    if code is None:
        return ClickHouseError(text, None, Cure.UNKNOWN, True)
    return ClickHouseError(text, code, cure_of(code, str(error)), code in _MAYBE_WRITTEN)


def _server_text(text: str) -> str:
    """The server's own sentence, without what the library puts around it."""
    begin = text.find("Code: ")
    text = text[max(begin, 0) :]
    for tail in (" (version ", " (for url "):
        text = text.split(tail)[0]
    return text[:TEXT_CHARACTERS_MAX]


def _transport_text(error: BaseException) -> str:
    """What really happened, below the layers that report it."""
    found: BaseException = error
    for _ in range(10):
        reason = getattr(found, "reason", None)
        inner = reason if isinstance(reason, BaseException) else found.__cause__
        if inner is None:
            break
        found = inner
    return f"no answer: {type(found).__name__}: {found}"[:TEXT_CHARACTERS_MAX]
