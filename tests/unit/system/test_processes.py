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
