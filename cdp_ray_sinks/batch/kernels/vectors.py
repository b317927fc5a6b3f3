"""Whole vectors of bytes at once, for the kernels that write text.

LLVM makes them from the machine's own instructions. As in `memory`, arrays may be given as
addresses, and nothing checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cdp_ray_sinks.batch.kernels.memory import pointer_to

_BYTE: Final = ir.IntType(8)
_DASH: Final = 32
"""In the layout of an id: the vector behind its 32 digits."""
_ID_LAYOUT: Final = [
    *range(8), _DASH, *range(8, 12), _DASH, *range(12, 16), _DASH, *range(16, 20), _DASH,
    *range(20, 28),
]  # fmt: skip
_ID_END: Final = [28, 29, 30, 31]


def _splat(value: int, count: int) -> Any:
    return ir.Constant(ir.VectorType(_BYTE, count), [value] * count)


def _indexes(places: Sequence[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), list(places))


def _load(builder: Any, pointer: Any, kind: Any) -> Any:
    value = builder.load(builder.bitcast(pointer, kind.as_pointer()))
    value.align = 1
    return value


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 1


def _copy_marked_32(
    typingctx: Any,
    target: Any,
    target_position: Any,
    source: Any,
    source_position: Any,
    special: Any,
) -> Any:
    signature = types.int64(target, target_position, source, source_position, special)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = types.void(*signature.args[0:2])
        out = types.void(*signature.args[2:4])
        value = _load(
            builder, pointer_to(context, builder, out, args[2:4]), ir.VectorType(_BYTE, 32)
        )
        _store(builder, value, pointer_to(context, builder, to, args[0:2]))
        byte = context.cast(builder, args[4], signature.args[4], types.uint8)
        one = builder.insert_element(_splat(0, 32), byte, ir.Constant(ir.IntType(32), 0))
        every = builder.shuffle_vector(one, _splat(0, 32), _indexes([0] * 32))
        # Signed: bytes from 0x80 on are below zero.
        marked = builder.icmp_signed("<", value, _splat(0x20, 32))
        for other in (_splat(0x7F, 32), _splat(0x5C, 32), every):
            marked = builder.or_(marked, builder.icmp_unsigned("==", value, other))
        return builder.zext(builder.bitcast(marked, ir.IntType(32)), ir.IntType(64))

    return signature, generate


CopyMarked: TypeAlias = Callable[[Any, int, Any, int, int], int]
copy_marked_32: CopyMarked = intrinsic(_copy_marked_32)  # type: ignore[assignment]
"""copy_marked_32(target, target_position, source, source_position, special) -> int64.

Copies 32 bytes. Bit i of the result is set if byte i is no printable ASCII character, or a
backslash, or equal to `special`.
"""


def _trailing_zeros(typingctx: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = context.cast(builder, args[0], signature.args[0], types.int64)
        return builder.cttz(value, ir.Constant(ir.IntType(1), 0))

    return types.int64(mask), generate


trailing_zeros: Callable[[int], int] = intrinsic(_trailing_zeros)  # type: ignore[assignment]
"""trailing_zeros(mask) -> int64: the place of the lowest bit that is set, 64 if none is."""


def _store_id_text(
    typingctx: Any, target: Any, target_position: Any, source: Any, source_position: Any
) -> Any:
    signature = types.void(target, target_position, source, source_position)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = types.void(*signature.args[0:2])
        out = types.void(*signature.args[2:4])
        value = _load(
            builder, pointer_to(context, builder, out, args[2:4]), ir.VectorType(_BYTE, 16)
        )
        high = builder.lshr(value, _splat(4, 16))
        low = builder.and_(value, _splat(15, 16))
        order = [place for pair in zip(range(16), range(16, 32), strict=True) for place in pair]
        digits = builder.shuffle_vector(high, low, _indexes(order))
        is_letter = builder.icmp_unsigned(">", digits, _splat(9, 32))
        shift = builder.select(is_letter, _splat(ord("a") - 10, 32), _splat(ord("0"), 32))
        digits = builder.add(digits, shift)
        text = builder.shuffle_vector(digits, _splat(ord("-"), 32), _indexes(_ID_LAYOUT))
        end = builder.shuffle_vector(digits, digits, _indexes(_ID_END))
        pointer = pointer_to(context, builder, to, args[0:2])
        _store(builder, text, pointer)
        behind = builder.gep(pointer, [ir.Constant(ir.IntType(64), 32)])
        _store(builder, end, behind)
        return context.get_dummy_value()

    return signature, generate


StoreText: TypeAlias = Callable[[Any, int, Any, int], None]
store_id_text: StoreText = intrinsic(_store_id_text)  # type: ignore[assignment]
"""store_id_text(target, target_position, source, source_position): 16 bytes as the 36
characters of a UUID."""
