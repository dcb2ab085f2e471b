"""Memory ordering of ring indices, in one place.

Every ring that the sources read (AF_XDP, BPF ring buffer, io_uring) is memory that the kernel writes on one CPU while
we read it on another: entries, and an index with their number. Two rules apply:

* **Acquire.** The kernel writes an entry first and then advances the index. A reader of the index must not have read
  the entry before: :func:`load_acquire` reads an index, and no later read or write of this thread moves before it.
* **Release.** We use an entry first and then return it (or write an entry and then publish it):
  :func:`store_release` writes an index, and no earlier read or write of this thread moves after it.

The kernel does the same (``smp_load_acquire``, ``smp_store_release`` in ``net/xdp/xsk_queue.h``,
``kernel/bpf/ringbuf.c``, ``io_uring/io_uring.c``). On x86-64 both are plain moves, but the *compiler* may still reorder
around a plain access; on arm64 the CPU may, too. So indices are read and written only inside compiled kernels through
the two functions below, which become LLVM's atomic ``load acquire`` and ``store release``: ``ldar`` and ``stlr`` on
arm64.

Neither is a full barrier between *our* store and *our* next load (Dekker's pattern: we publish "all read", find nothing
new, and sleep, while the kernel adds an entry and does not yet see that we wait). No ring here needs one: a source
never sleeps on an index it has read, it sleeps in ``poll(2)`` or ``io_uring_enter(2)``, which put the thread on the
wait list first and then check the ring themselves.

Indices increase without limit and wrap at the width of their type; differences are taken modulo that width, and the
place of an entry is ``index & mask``. Byte order and width of an index are those of its array.
"""

from typing import Any

__all__ = ["load_acquire", "store_release"]


def load_acquire(array: Any, index: int) -> Any:
    """``array[index]`` (an aligned unsigned integer of 16, 32 or 64 bits), with acquire ordering; for kernels only."""
    raise NotImplementedError("only a compiled kernel orders its loads")


def store_release(array: Any, index: int, value: Any) -> None:
    """``array[index] = value``, with release ordering; ``value`` is cut to the array's width; for kernels only."""
    raise NotImplementedError("only a compiled kernel orders its stores")
