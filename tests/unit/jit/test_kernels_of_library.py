"""What Python sees of a kernel of the library: arguments are checked as numba checks them, results are the same.

In a process of its own, where numba cannot be imported: one process takes its kernels from one place.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klais.jit.library import NoLibrary, open_library
from tests.support.process import PATIENCE

FORBIDDEN = Path(__file__).parents[2] / "support" / "without_numba"
RUN = """
import gc, json, sys, traceback
import numpy as np
from klais.sim.kernels import epochs_of, next_random, put_bytes, put_fixed, white
assert type(next_random).__name__ == "builtin_function_or_method", next_random

def refused(kind, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} took {arguments}")

found = {}
for name, code in json.load(sys.stdin).items():
    try:
        exec(code, globals() | {"state": np.ones(1, np.uint64)})
        found[name] = ""
    except Exception:
        found[name] = traceback.format_exc()
print(json.dumps(found))
"""
FIRST = 10451216379200822465  # of the numbers of SplitMix64 that begin with 1
WRONG = {
    "type": "np.ones(1)",
    "dimensions": "np.ones((1, 1), np.uint64)",
    "byte order": "np.ones(1, '>u8')",
    "stride": "np.ones(4, np.uint64)[::2]",
    "place": "np.ones(17, np.uint8)[1:9].view(np.uint64)",
    "right to write": "np.frombuffer(bytes(8), np.uint64)",
    "None": "None",
    "number": "3",
    "list": "[1]",
    "bytes": "b'12345678'",
}
CASES = {
    "values": f"assert next_random(state) == {FIRST} and state[0] == 11400714819323198486",
    "numbers of numpy": """
out = np.zeros(8, np.uint8)
assert put_fixed(out, np.int8(1), np.float32(2.5), np.uint16(1)) == 4 and out.tobytes() == b'\\0002.5' + bytes(4)
""",
    **{f"no {what}": f"assert 'argument 1' in refused(TypeError, next_random, {text})" for what, text in WRONG.items()},
    "bytes where it only reads": """
out = np.zeros(4, np.uint8)
assert put_bytes(out, 1, np.frombuffer(b'abc', np.uint8), 0, 3) == 4 and out.tobytes() == b'\\0abc'
""",
    "a subclass of the array": f"""
class Own(np.ndarray): pass
assert next_random(state.view(Own)) == {FIRST}
""",
    "an unsigned number out of range": "refused(OverflowError, white, -1); refused(OverflowError, white, 1 << 64)",
    "a signed number out of range": """
some = np.zeros(1, np.uint8)
refused(OverflowError, put_bytes, some, 1 << 63, some, 0, 0)
""",
    "text": "refused(ValueError, white, 'a'); refused(TypeError, put_fixed, np.zeros(9, np.uint8), 0, 'a', 1)",
    "too few": "assert 'takes 1' in refused(TypeError, next_random) and 'takes 4' in refused(TypeError, put_fixed, 1)",
    "references": """
bad, big = np.ones(1), 2**60
def counts():
    gc.collect()
    return [sys.getrefcount(x) for x in (state, state.dtype, bad, big)]
before = counts()
for _ in range(1000):
    next_random(state); white(big); refused(TypeError, next_random, bad)
    epochs_of(*(np.zeros(0, t) for t in (np.int32, np.uint8, np.uint32, np.uint32)))
assert counts() == before, (before, counts())
""",
}


def has_library() -> bool:
    try:
        open_library()
    except NoLibrary:
        return False
    return True


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Traceback of each case, empty where all is well, in a process with the library; without one, of this module."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_") and name != "KLAIS_JIT"}
    env = kept
    if not has_library():
        env = kept | {"KLAIS_CACHE_DIR": str(tmp_path_factory.mktemp("cache") / "own")}
        build = "from klais.jit.build import build_library; build_library(only=['klais.sim.kernels'])"
        made = subprocess.run(
            [sys.executable, "-c", build], env=env, capture_output=True, text=True, timeout=180 * PATIENCE
        )
        assert made.returncode == 0, made.stderr
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=env | {"PYTHONPATH": str(FORBIDDEN)},
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_of_the_library(found: dict[str, str], name: str) -> None:
    assert not found[name], found[name]
