"""Release memory that only the start of a process needed."""

import ctypes
import gc
import mmap
from pathlib import Path


def release_startup_memory() -> None:
    """Call it once everything is set up: before the first frame, after the last kernel was loaded.

    Existing objects live until the process ends, so the garbage collector need not scan them again. Most machine code
    ran for the last time (of pydantic, of OpenSSL, of numba's compiler if it is used): this drops all of its pages.
    They are unmodified, so those that run again are read from the file.
    """
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, _, *path = line.split(maxsplit=5)
        if rights == "r-xp" and path and path[0].startswith("/"):  # not r--p: the loader wrote to some of those
            start, end = (int(part, 16) for part in span.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
