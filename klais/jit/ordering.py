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

__all__ = ["load_acquire", "store_release"]


def load_acquire(array: Any, index: int) -> Any:
    """``array[index]`` (an aligned unsigned integer of 16, 32 or 64 bits), with acquire ordering; for kernels only."""
    raise NotImplementedError("only a compiled kernel orders its loads")


def store_release(array: Any, index: int, value: Any) -> None:
    """``array[index] = value``, with release ordering; ``value`` is cut to the array's width; for kernels only."""
    raise NotImplementedError("only a compiled kernel orders its stores")
