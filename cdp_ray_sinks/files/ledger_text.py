"""A ledger as text, for formats whose metadata is text: base64 of the index's own record."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable

from cdp_ray_sinks.files.commit_index import (
    KIND_SNAPSHOT,
    encode_snapshot,
    next_record,
    parse_snapshot,
)
from cdp_ray_sinks.files.ledger import LedgerEntry


def ledger_text(entries: Iterable[LedgerEntry]) -> str:
    """What `ledger_entries` reads back."""
    return base64.b64encode(encode_snapshot(entries)).decode()


def ledger_entries(text: str) -> list[LedgerEntry]:
    """The entries; raises ValueError if the text is no ledger, or its checksum does not hold."""
    try:
        record = next_record(base64.b64decode(text, validate=True), 0)
        if isinstance(record, str) or record[0] != KIND_SNAPSHOT:
            raise ValueError("not a ledger")
        return list(parse_snapshot(record[1]))
    except (binascii.Error, struct.error) as error:
        raise ValueError(f"not a ledger: {error}") from None
