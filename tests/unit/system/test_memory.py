"""Pages of machine code that is in no use go, and come back when it runs again."""

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


def test_code_that_ran_for_the_last_time_takes_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000
