"""Environment variables that make numba compile kernels in the process, whether there is a library or not."""

import os

JIT_OPTIONS = ("NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_JIT", "NUMBA_DEBUGINFO")  # of numba: they change the compiled code


def wants_jit() -> bool:
    """Whether the environment requests numba, explicitly or with an option of numba that changes the compiled code."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("KLAIS_JIT", *JIT_OPTIONS))
