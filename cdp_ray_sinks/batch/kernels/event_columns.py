"""The outputs of the event decoder, and where they are."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp_ray_sinks.batch.kernels.memory import address_of

HAS_DEVICE: Final = 0
HAS_SESSION: Final = 1
HAS_NAME: Final = 2
HAS_SERVICE: Final = 3
HAS_PAYLOAD: Final = 4
"""Bits of `present`."""


class EventColumns(NamedTuple):
    """Outputs for so many rows; the offsets have one more value and start with 0.

    `device_id` and `session_id` have 16 bytes a row. `names` holds each row's number in
    the dictionary, or, when names are decoded plain, one offset more than rows. `service`
    and `payload` need SLACK_BYTES behind what is used.
    """

    event_type: NDArray[np.uint8]
    timestamp: NDArray[np.int64]
    present: NDArray[np.uint8]
    device_id: NDArray[np.uint8]
    session_id: NDArray[np.uint8]
    names: NDArray[np.int32]
    service_offsets: NDArray[np.int32]
    service: NDArray[np.uint8]
    payload_offsets: NDArray[np.int32]
    payload: NDArray[np.uint8]


class NameTable(NamedTuple):
    """The dictionary of names: see `names.name_index`. Plain names use only `text`."""

    slots: NDArray[np.int32]
    keys: NDArray[np.uint64]
    offsets: NDArray[np.int32]
    text: NDArray[np.uint8]


class Places(NamedTuple):
    """Addresses of the arrays of EventColumns and NameTable, and their room."""

    rows_max: int
    event_type: int
    timestamp: int
    present: int
    device_id: int
    session_id: int
    names: int
    services: int
    service: int
    service_end: int
    payloads: int
    payload: int
    payload_end: int
    slots: int
    keys: int
    name_offsets: int
    text: int
    text_end: int


@njit(nogil=True, cache=True)
def places_of(columns: Any, table: Any) -> Places:
    """The addresses of all output columns; their arrays must outlive them."""
    return Places(
        len(columns.event_type),
        address_of(columns.event_type),
        address_of(columns.timestamp),
        address_of(columns.present),
        address_of(columns.device_id),
        address_of(columns.session_id),
        address_of(columns.names),
        address_of(columns.service_offsets),
        address_of(columns.service),
        len(columns.service),
        address_of(columns.payload_offsets),
        address_of(columns.payload),
        len(columns.payload),
        address_of(table.slots),
        address_of(table.keys),
        address_of(table.offsets),
        address_of(table.text),
        len(table.text),
    )
