"""LLVM instructions for the functions of ``klais/jit/intrinsics.py`` and ``klais/jit/ordering.py``.

Only the compiler imports this, before the first kernel.
"""

from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from klais.jit.intrinsics import copy_bytes, load_u64, prefetch
from klais.jit.ordering import load_acquire, store_release

_BORROWS = {"_nrt": False}  # no reference counts for the array


@intrinsic  # type: ignore[misc]
def _memcpy(typing_context: Any, out: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    """``llvm.memcpy`` between two uint8 arrays; a constant ``size`` becomes plain vector stores."""
    count_type = size if isinstance(size, types.Literal) else types.int64
    signature = types.void(out, types.int64, source, types.int64, count_type)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        out_array = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
        in_array = cgutils.create_struct_proxy(sig.args[2])(context, builder, value=args[2])
        target = builder.gep(out_array.data, [args[1]])
        origin = builder.gep(in_array.data, [args[3]])
        literal = isinstance(sig.args[4], types.Literal)
        count = ir.Constant(ir.IntType(64), sig.args[4].literal_value) if literal else args[4]
        cgutils.raw_memcpy(builder, target, origin, count, 1)
        return context.get_dummy_value()

    return signature, generate


@overload(copy_bytes, prefer_literal=True)
def _copy_bytes(out: Any, at: Any, source: Any, start: Any, size: Any) -> Any:
    if numba.config.BOUNDSCHECK:

        def checked(out: Any, at: Any, source: Any, start: Any, size: Any) -> None:
            if at < 0 or start < 0 or at + size > out.shape[0] or start + size > source.shape[0]:
                raise IndexError("copy outside of an array")
            _memcpy(out, at, source, start, size)

        return checked

    def unchecked(out: Any, at: Any, source: Any, start: Any, size: Any) -> None:
        _memcpy(out, at, source, start, size)

    return unchecked


@intrinsic  # type: ignore[misc]
def _prefetch(typing_context: Any, memory: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), byte)
        name = "llvm.prefetch.p0"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word]), name
        )
        read, keep_everywhere, data = (ir.Constant(word, value) for value in (0, 3, 1))
        builder.call(function, [pointer, read, keep_everywhere, data])
        return context.get_dummy_value()

    return types.void(memory, types.int64), generate


@overload(prefetch, strict=False, jit_options=_BORROWS)
def _prefetch_overload(memory: Any, at: Any) -> Any:
    return lambda memory, at: _prefetch(memory, at)


@intrinsic  # type: ignore[misc]
def _load_u64(typing_context: Any, memory: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(memory, types.int64), generate


@overload(load_u64)
def _load_u64_overload(memory: Any, at: Any) -> Any:
    if numba.config.BOUNDSCHECK:

        def checked(memory: Any, at: Any) -> Any:
            if at < 0 or at + 8 > memory.shape[0]:
                raise IndexError("load outside of an array")
            return _load_u64(memory, at)

        return checked

    def unchecked(memory: Any, at: Any) -> Any:
        return _load_u64(memory, at)

    return unchecked


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, view, [index], wraparound=False)


def _is_index(array: Any) -> bool:
    return isinstance(array, types.Array) and array.ndim == 1 and isinstance(array.dtype, types.Integer)


@intrinsic
def _load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], place)
        return builder.load_atomic(pointer, "acquire", array.dtype.bitwidth // 8)

    return array.dtype(array, index), generate


@overload(load_acquire, strict=False, jit_options=_BORROWS)
def _load_acquire_overload(array: Any, index: Any) -> Any:
    return (lambda array, index: _load_acquire(array, index)) if _is_index(array) else None


@intrinsic
def _store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], place)
        new = context.cast(builder, arguments[2], signature.args[2], array.dtype)
        builder.store_atomic(new, pointer, "release", array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@overload(store_release, strict=False, jit_options=_BORROWS)
def _store_release_overload(array: Any, index: Any, value: Any) -> Any:
    return (lambda array, index, value: _store_release(array, index, value)) if _is_index(array) else None
