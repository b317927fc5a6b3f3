"""What is known about each message of a run: one row of int64 per message.

One two-dimensional array instead of a dozen: a kernel call costs per argument.
"""

from __future__ import annotations

from typing import Final

FACT_STATUS: Final = 0
"""One of the MESSAGE_* values; the columns after it hold only for MESSAGE_OK."""
FACT_SCHEMA_TYPE: Final = 1
FACT_VERSION: Final = 2
FACT_WORKSPACE: Final = 3
FACT_KEY_OFFSET: Final = 4
"""Where in the message its 16 key bytes are."""
FACT_SOURCE_IP_OFFSET: Final = 5
"""Where in the message its 16 address bytes are; -1 if it carries none of that length."""
FACT_EVENT_COUNT: Final = 6
FACT_EVENT_TYPES: Final = 7
"""Bit t is set if an event of type t is in the message."""
FACT_TIME_MIN: Final = 8
"""Earliest event time in ms, -1 if not known."""
FACT_TIME_MAX: Final = 9
FACT_IS_DECODABLE: Final = 10
"""1 unless the data inside a valid envelope does not decode."""
FACT_COLUMNS: Final = 11

MESSAGE_OK: Final = 0
MESSAGE_MALFORMED: Final = 1
MESSAGE_UNKNOWN_KEY: Final = 2

TOTAL_EVENT_COUNT: Final = 0
TOTAL_EVENT_TYPES: Final = 1
TOTAL_TIME_MIN: Final = 2
TOTAL_TIME_MAX: Final = 3
TOTAL_COLUMNS: Final = 4
