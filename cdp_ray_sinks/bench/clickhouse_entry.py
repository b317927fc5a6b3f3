"""Finds the entry point of `clickhouse local` inside the chdb wheel's library.

`_chdb.abi3.so` holds all of it, its HTTP server too, but exports no symbol for it. The name
of its class leads to the type information, that to the vtable, that to the one function that
makes such an object on its stack: the entry, called like `main`. For a build that is known
the search, some seconds, is left out.
"""

from __future__ import annotations

import mmap
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

KNOWN_ENTRIES: Final = {"bdc4640446f9e58ef835635e38764a5992cd4b3c": -0x74A40}
"""GNU build id to the entry's distance from PyInit__chdb: chdb-core 26.9.0, x86_64 Linux."""

_CLASS_NAME: Final = b"N2DB11LocalServerE\0"
_SECTION_WITHOUT_BYTES: Final = 8
_RELATIVE: Final = 8
_STEP_BYTES: Final = 1 << 24


class _Section(NamedTuple):
    kind: int
    address: int
    offset: int
    size_bytes: int


def library_path() -> Path:
    """Where the wheel's library lies; LookupError without the chdb package.

    The package itself is not imported: that would start an engine.
    """
    spec = find_spec("chdb")
    if spec is None or spec.origin is None:
        raise LookupError("the chdb package is not installed")
    return Path(spec.origin).with_name("_chdb.abi3.so")


def entry_distance(path: Path) -> int:
    """The entry's distance from the symbol PyInit__chdb, in bytes; LookupError if unknown."""
    elf = _Elf(path)
    known = KNOWN_ENTRIES.get(elf.build_id())
    return elf.entry() - elf.symbol(b"PyInit__chdb") if known is None else known


class _Elf:
    """As much of a 64-bit little-endian shared library as the search needs."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if self._map[:4] != b"\x7fELF":
            raise LookupError(f"{path} is no ELF library")
        start = struct.unpack_from("<Q", self._map, 0x28)[0]
        entry_bytes, count, names_at = struct.unpack_from("<HHH", self._map, 0x3A)
        heads = [
            struct.unpack_from("<IIQQQQ", self._map, start + place * entry_bytes)
            for place in range(count)
        ]
        names = heads[names_at][4]
        self._sections = {
            self._text(names + name): _Section(kind, address, offset, size_bytes)
            for name, kind, _, address, offset, size_bytes in heads
        }

    def _text(self, offset: int) -> str:
        return self._map[offset : self._map.find(b"\0", offset)].decode()

    def build_id(self) -> str:
        """The GNU build id, hexadecimal."""
        offset = self._sections[".note.gnu.build-id"].offset
        name_bytes, id_bytes = struct.unpack_from("<II", self._map, offset)
        start = offset + 12 + name_bytes
        return self._map[start : start + id_bytes].hex()

    def symbol(self, name: bytes) -> int:
        """The address of an exported symbol; LookupError."""
        table, texts = self._sections[".dynsym"], self._sections[".dynstr"]
        for at in range(table.offset, table.offset + table.size_bytes, 24):
            text_at, value = struct.unpack_from("<I4xQ", self._map, at)
            start = texts.offset + text_at
            if self._map[start : start + len(name) + 1] == name + b"\0":
                return int(value)
        raise LookupError(f"the library exports no {name.decode()}")

    def entry(self) -> int:
        """The address of the entry; LookupError."""
        name_at = self._map.find(_CLASS_NAME)
        if name_at < 0:
            raise LookupError("the library holds no clickhouse local")
        for type_info in self._pointers_to(self._address_of(name_at)):
            for vtable in self._pointers_to(type_info - 8):
                users = self._functions_using(vtable - 8)
                if len(users) == 1:
                    return users.pop()
        raise LookupError("the entry of clickhouse local is not found in this build of chdb")

    def _address_of(self, offset: int) -> int:
        for section in self._sections.values():
            if (
                section.address
                and section.kind != _SECTION_WITHOUT_BYTES
                and section.offset <= offset < section.offset + section.size_bytes
            ):
                return offset - section.offset + section.address
        raise LookupError(f"no section of the library holds byte {offset}")

    def _pointers_to(self, address: int) -> list[int]:
        """Where the loader writes a pointer to `address`."""
        section = self._sections[".rela.dyn"]
        table: NDArray[np.uint64] = np.frombuffer(
            self._map, "<u8", section.size_bytes // 8, section.offset
        ).reshape(-1, 3)
        is_relative = (table[:, 1] & np.uint64(0xFFFFFFFF)) == _RELATIVE
        found: list[int] = table[is_relative & (table[:, 2] == address), 0].tolist()
        return found

    def _functions_using(self, address: int) -> set[int]:
        """The starts of functions whose code names `address` relative to where it stands."""
        text, frames = self._sections[".text"], self._sections[".eh_frame_hdr"]
        (count,) = struct.unpack_from("<I", self._map, frames.offset + 8)
        table = np.frombuffer(self._map, "<i4", count * 2, frames.offset + 12).reshape(-1, 2)
        starts = np.sort(table[:, 0].astype(np.int64) + frames.address)
        found: set[int] = set()
        for shift in range(4):
            for begin in range(shift, text.size_bytes - 4, 4 * _STEP_BYTES):
                length = min(_STEP_BYTES, (text.size_bytes - begin) // 4)
                distances = np.frombuffer(self._map, "<i4", length, text.offset + begin)
                behind = np.arange(length, dtype=np.int64) * 4 + (begin + 4 + text.address)
                hits = behind[behind + distances == address]
                found.update(starts[np.searchsorted(starts, hits, side="right") - 1].tolist())
        return found
