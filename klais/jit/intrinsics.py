"""What a kernel can ask of the CPU that Python has no word for: copy a run of bytes at once, fetch a cache line
ahead."""

import sys
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

__all__ = ["copy_bytes", "load_u64", "prefetch"]


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


def copy_bytes(out: npt.NDArray[np.uint8], at: int, source: npt.NDArray[np.uint8], start: int, size: int) -> None:
    """``out[at : at + size] = source[start : start + size]``; no overlap, and inside (the caller knows)."""
    if at < 0 or start < 0 or at + size > out.shape[0] or start + size > source.shape[0]:
        raise IndexError("copy outside of an array")
    out[at : at + size] = source[start : start + size]


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
def prefetch(typing_context: Any, memory: Any, at: Any) -> Any:
    """Have the cache line of the ``at``-th number of a C-contiguous array fetched, to be read soon; any ``at`` is
    allowed, nothing is read."""

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


@intrinsic  # type: ignore[misc]
def _load_u64(typing_context: Any, memory: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(memory, types.int64), generate


def load_u64(memory: npt.NDArray[np.uint8], at: int) -> int:
    """The eight bytes ``memory[at : at + 8]`` as a word of this machine's byte order, inside (the caller knows)."""
    if at < 0 or at + 8 > memory.shape[0]:
        raise IndexError("load outside of an array")
    return int.from_bytes(memory[at : at + 8].tobytes(), sys.byteorder)


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
