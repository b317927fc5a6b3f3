"""Unaligned loads, stores and copies inside byte arrays, for compiled kernels.

The wire's integers lie at any byte offset, and numpy views need alignment, so these
go through the array's data pointer with an alignment of 1. None of them checks bounds:
each call site stands behind the check that it relies on.

Each takes an array or the integer that `address_of` makes of it. Where a small function
is called for every event, pass the address: numba counts references, atomically, for each
array that crosses a call (measured: 107 against 18 ns to verify an event).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Load: TypeAlias = Callable[[Any, int], int]
Store: TypeAlias = Callable[[Any, int, int], None]


def pointer_to(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """The address of byte args[1] of args[0], an array or an address; for intrinsics."""
    if isinstance(signature.args[0], types.Integer):
        index = context.cast(builder, args[1], signature.args[1], types.intp)
        base = context.cast(builder, args[0], signature.args[0], types.intp)
        start = builder.inttoptr(base, ir.IntType(8).as_pointer())
        return builder.gep(start, [index])
    array = context.make_array(signature.args[0])(context, builder, args[0])
    index = context.cast(builder, args[1], signature.args[1], types.intp)
    return builder.gep(array.data, [index])


def _swap(builder: Any, value: Any, bits: int) -> Any:
    width = ir.IntType(bits)
    declared = builder.module.declare_intrinsic("llvm.bswap", [width])
    return builder.call(declared, [value])


def _make_load(bits: int, result: Any, big_endian: bool) -> Callable[..., Any]:
    def load(typingctx: Any, array: Any, position: Any) -> Any:
        signature = result(array, position)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = pointer_to(context, builder, signature, args)
            typed = builder.bitcast(pointer, ir.IntType(bits).as_pointer())
            value = builder.load(typed)
            value.align = 1
            if big_endian:
                value = _swap(builder, value, bits)
            return context.cast(builder, value, types.Integer.from_bitwidth(bits, False), result)

        return signature, generate

    return load


def _make_store(bits: int, big_endian: bool) -> Callable[..., Any]:
    def store(typingctx: Any, array: Any, position: Any, value: Any) -> Any:
        signature = types.void(array, position, value)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = pointer_to(context, builder, signature, args)
            typed = builder.bitcast(pointer, ir.IntType(bits).as_pointer())
            unsigned = types.Integer.from_bitwidth(bits, False)
            number = context.cast(builder, args[2], signature.args[2], unsigned)
            if big_endian:
                number = _swap(builder, number, bits)
            builder.store(number, typed).align = 1
            return context.get_dummy_value()

        return signature, generate

    return store


load_u8: Load = intrinsic(_make_load(8, types.int64, False))
"""load_u8(array, position) -> int64."""
load_u16: Load = intrinsic(_make_load(16, types.int64, False))
"""load_u16(array, position) -> int64, little-endian."""
load_u32: Load = intrinsic(_make_load(32, types.int64, False))
"""load_u32(array, position) -> int64, little-endian."""
load_i32: Load = intrinsic(_make_load(32, types.int32, False))
"""load_i32(array, position) -> int32, little-endian; FlatBuffers vtable offsets."""
load_u64: Load = intrinsic(_make_load(64, types.uint64, False))
"""load_u64(array, position) -> uint64, little-endian."""
load_i64: Load = intrinsic(_make_load(64, types.int64, False))
"""load_i64(array, position) -> int64, little-endian."""
load_i64_big: Load = intrinsic(_make_load(64, types.int64, True))
"""load_i64_big(array, position) -> int64, big-endian."""
load_u32_big: Load = intrinsic(_make_load(32, types.int64, True))
"""load_u32_big(array, position) -> int64, big-endian; frame sizes."""
load_u64_big: Load = intrinsic(_make_load(64, types.uint64, True))
"""load_u64_big(array, position) -> uint64, big-endian; record timestamps."""
store_u8: Store = intrinsic(_make_store(8, False))
"""store_u8(array, position, value)."""
store_u16: Store = intrinsic(_make_store(16, False))
"""store_u16(array, position, value), little-endian."""
store_u32: Store = intrinsic(_make_store(32, False))
"""store_u32(array, position, value), little-endian."""
store_u64: Store = intrinsic(_make_store(64, False))
"""store_u64(array, position, value), little-endian."""
store_u32_big: Store = intrinsic(_make_store(32, True))
"""store_u32_big(array, position, value), big-endian."""
store_u64_big: Store = intrinsic(_make_store(64, True))
"""store_u64_big(array, position, value), big-endian."""


def _address_of(typingctx: Any, array: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if isinstance(signature.args[0], types.Integer):
            return context.cast(builder, args[0], signature.args[0], types.int64)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


address_of: Callable[[Any], int] = intrinsic(_address_of)  # type: ignore[assignment]
"""address_of(array) -> int64, an address as it is; good while something holds the array."""


def _copy_bytes(
    typingctx: Any,
    target: Any,
    target_position: Any,
    source: Any,
    source_position: Any,
    count: Any,
) -> Any:
    signature = types.void(target, target_position, source, source_position, count)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def at(array: int, position: int) -> Any:
            parts = types.void(signature.args[array], signature.args[position])
            return pointer_to(context, builder, parts, (args[array], args[position]))

        length = context.cast(builder, args[4], signature.args[4], types.intp)
        cgutils.raw_memcpy(builder, at(0, 1), at(2, 3), length, 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return signature, generate


Copy: TypeAlias = Callable[[Any, int, Any, int, int], None]
copy_bytes: Copy = intrinsic(_copy_bytes)  # type: ignore[assignment]
"""copy_bytes(target, target_position, source, source_position, count): memcpy."""


def _make_copy(vector_bytes: int) -> Callable[..., Any]:
    def copy(
        typingctx: Any, target: Any, target_position: Any, source: Any, source_position: Any
    ) -> Any:
        signature = types.void(target, target_position, source, source_position)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector = ir.VectorType(ir.IntType(8), vector_bytes).as_pointer()
            to = types.void(signature.args[0], signature.args[1])
            out = types.void(signature.args[2], signature.args[3])
            value = builder.load(
                builder.bitcast(pointer_to(context, builder, out, args[2:4]), vector)
            )
            value.align = 1
            target_at = builder.bitcast(pointer_to(context, builder, to, args[0:2]), vector)
            builder.store(value, target_at).align = 1
            return context.get_dummy_value()

        return signature, generate

    return copy


copy_16: Callable[[Any, int, Any, int], None] = intrinsic(_make_copy(16))
"""copy_16(target, target_position, source, source_position): exactly 16 bytes."""
copy_32: Callable[[Any, int, Any, int], None] = intrinsic(_make_copy(32))
"""copy_32(target, target_position, source, source_position): exactly 32 bytes."""


def _make_prefetch(is_write: bool) -> Callable[..., Any]:
    def prefetch(typingctx: Any, array: Any, position: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = pointer_to(context, builder, signature, args)
            number = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
            declared = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
            builder.call(declared, [pointer, number(int(is_write)), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(array, position), generate

    return prefetch


prefetch_read: Callable[[Any, int], None] = intrinsic(_make_prefetch(False))
"""prefetch_read(array, position): the cache line there will be read; may lie outside."""
prefetch_write: Callable[[Any, int], None] = intrinsic(_make_prefetch(True))
"""prefetch_write(array, position): the cache line there will be written; may lie outside."""
