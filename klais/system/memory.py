"""Keep the memory of a process at what it needs: limit the heap, and return what was freed."""

import ctypes
import gc
import mmap
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
MAPPED_FROM = 4 << 20  # bytes; what a fetch returns is mostly smaller
ARENAS = 2  # heaps; a worker has some 40 threads, and most of them allocate seldom
KEPT_AT_TOP = 2 << 20  # bytes of free heap for the next batch; blocks of MAPPED_FROM do not fit there


def limit_heap() -> None:
    """Map each large block by itself, so that its pages go back to the system when it is freed, and let threads share
    few heaps. Call it at the start.

    By default glibc raises its limit for such blocks, up to 32 MB, with each large block that is freed. From then on
    the columns of a lane and the buffers of its recovery come from the heap, where small blocks that live longer keep
    their pages. A heap that was used once also has to be zeroed for a new column, which touches all of its pages. By
    default each thread gets a heap of its own, up to eight per CPU, and each of them keeps what its largest use left.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM)
        mallopt(_M_TRIM_THRESHOLD, KEPT_AT_TOP)
        mallopt(_M_ARENA_MAX, ARENAS)


def trim_heap() -> None:
    """Return the pages of freed blocks to the system; glibc keeps those between blocks in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def release_startup_memory() -> None:
    """Call it once everything is set up: before the first frame, after the last kernel was loaded.

    Existing objects live until the process ends, so the garbage collector need not scan them again. Most machine code
    ran for the last time (of pydantic, of OpenSSL, of numba's compiler if it is used): this drops all of its pages.
    They are unmodified, so those that run again are read from the file.
    """
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        span, rights, _, _, _, *path = line.split(maxsplit=5)
        if rights == "r-xp" and path and path[0].startswith("/"):  # not r--p: the loader wrote to some of those
            start, end = (int(part, 16) for part in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
    trim_heap()
