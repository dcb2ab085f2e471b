"""Pages that nothing needs go back to the system: of machine code that is in no use, and of blocks that were freed."""

import subprocess
import sys

RUN = """
import hashlib, ssl
import numpy as np
from klais.system.memory import release_startup_memory

def resident_kb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssFile:"))

def work():
    ssl.create_default_context()
    return hashlib.sha256(np.arange(1000).tobytes()).hexdigest()

wanted, before = work(), resident_kb()
release_startup_memory()
after = resident_kb()
assert work() == wanted
print(before - after)
"""

LIMITED = """
import ctypes
from klais.system.memory import MAPPED_FROM, limit_heap

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b used free top".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if {limited}:
    limit_heap()
bytearray(7 * MAPPED_FROM)  # made and freed: from here on glibc would take blocks of this size from the heap
before = libc.mallinfo2().hblkhd
column = bytearray(MAPPED_FROM)
print((libc.mallinfo2().hblkhd - before) // MAPPED_FROM)
"""


def mapped(limited: bool) -> int:
    """Number of columns that got a mapping of their own, of one."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.replace("{limited}", str(limited))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_large_block_has_its_own_mapping_whatever_was_freed_before() -> None:
    assert mapped(limited=False) == 0, "glibc does this by itself now: the limit is needless"
    assert mapped(limited=True) == 1


def test_code_that_ran_for_the_last_time_takes_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
