"""Give back memory that only the start needed."""

import ctypes
import gc
import mmap
from pathlib import Path


def settle() -> None:
    """To be called once everything is set up: before the first frame, after the last kernel was loaded.

    What lives now lives to the end, so the garbage collector need not look at it again. The machine code of the compiler
    (libllvmlite, 50 MB) is not run again: its pages are dropped; they are unmodified and would come back from the file.
    """
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *_ = line.split(maxsplit=2)
        if rights == "r-xp" and "/libllvmlite" in line:
            start, end = (int(part, 16) for part in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
