"""The memory bench measures an edge without numba: its stand-in must know all that the edge asks of the real one."""

import os
import subprocess
import sys

from bench.cases.memory import STAND_IN
from tests.support.process import PATIENCE


def test_an_edge_loads_on_the_stand_in() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import klais.edge.main, numba; print(numba.__file__)"],
        env=os.environ | {"PYTHONPATH": str(STAND_IN)},
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(str(STAND_IN)), "the real numba was loaded"
