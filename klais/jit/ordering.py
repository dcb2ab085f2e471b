"""Memory ordering of ring indices, handled here and nowhere else.

Every ring the sources read (AF_XDP, BPF ring buffer, io_uring) is memory that the kernel writes on one CPU while we
read it on another: entries, and an index that says how many there are. Two rules keep the sides apart:

* **Acquire.** The kernel writes an entry first and moves the index then. Whoever reads the index must not have read the
  entry before: :func:`load_acquire` reads an index, and no later read or write of this thread moves in front of it.
* **Release.** We use an entry first and say "yours again" (or write an entry and say "filled") then:
  :func:`store_release` writes an index, and no earlier read or write of this thread moves behind it.

The kernel's side does the same (``smp_load_acquire``, ``smp_store_release`` in ``net/xdp/xsk_queue.h``,
``kernel/bpf/ringbuf.c``, ``io_uring/io_uring.c``). On x86-64 both are plain moves, but the *compiler* may still reorder
around a plain access; on arm64 the CPU may, too. So indices are read and written only inside compiled kernels through
the two functions below, which become LLVM's atomic ``load acquire`` and ``store release``: ``ldar`` and ``stlr`` on
arm64.

What neither gives is a full barrier between *our* store and *our* next load (Dekker's pattern: we say "all read", find
nothing new, and sleep, while the kernel adds an entry and does not yet see that we wait). No ring here needs it: a
source never sleeps on an index it has read, it sleeps in ``poll(2)`` or ``io_uring_enter(2)``, and these put the
thread on the wait list first and look at the ring themselves then.

Indices run freely and wrap at the width of their type; differences are taken modulo that width, and an entry's
place is ``index & mask``. The byte order and width of an index are those of the array it lies in.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["load_acquire", "store_release"]


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, view, [index], wraparound=False)


@intrinsic
def load_acquire(typing_context: Any, array: Any, index: Any) -> Any:
    """``array[index]`` (an aligned unsigned integer of 16, 32 or 64 bits), with acquire ordering; for kernels only."""
    if not (isinstance(array, types.Array) and array.ndim == 1 and isinstance(array.dtype, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], place)
        return builder.load_atomic(pointer, "acquire", array.dtype.bitwidth // 8)

    return array.dtype(array, index), generate


@intrinsic
def store_release(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value``, with release ordering; ``value`` is cut to the array's width; for kernels only."""
    if not (isinstance(array, types.Array) and array.ndim == 1 and isinstance(array.dtype, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = _pointer(context, builder, signature.args[0], arguments[0], place)
        new = context.cast(builder, arguments[2], signature.args[2], array.dtype)
        builder.store_atomic(new, pointer, "release", array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, value), generate
