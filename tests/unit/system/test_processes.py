"""Limits of our own processes."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from klais.system.processes import raise_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(raise_open_files(900), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "then"), [(200, 600, 600), (200, 1000, 900), (950, 1000, 950)])
def test_open_files_are_raised_to_what_is_wanted_and_allowed(soft: int, hard: int, then: int) -> None:
    words = [sys.executable, "-c", CODE, str(soft), str(hard)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == [
        str(then), str(then), str(hard)
    ]  # fmt: skip


MEMORY = """
import resource, sys
from klais.system.processes import limit_memory
if sys.argv[1] != "none":
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
limit_memory(4 << 30)
print(*resource.getrlimit(resource.RLIMIT_AS))
"""


@pytest.mark.parametrize(("before", "then"), [("none", 4 << 30), (str(2 << 30), 2 << 30), (str(8 << 30), 4 << 30)])
def test_memory_is_limited_to_what_is_wanted_or_to_a_lower_limit(before: str, then: int) -> None:
    ran = subprocess.run([sys.executable, "-c", MEMORY, before], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(then)] * 2
