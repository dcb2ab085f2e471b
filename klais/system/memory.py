"""Give back memory that only the start of a process needed."""

import ctypes
import gc
import mmap
from pathlib import Path


def release_startup_memory() -> None:
    """Call it once everything is set up: before the first frame, after the last kernel was loaded.

    What lives now lives until the process ends, so the garbage collector need not scan it again. The compiler's machine
    code (libllvmlite, 50 MB) does not run again: this drops its pages; they are unmodified and would come back from the
    file.
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
