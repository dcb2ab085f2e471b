"""What in the environment says that numba compiles kernels in the process, whatever library there is."""

import os

JIT_OPTIONS = ("NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_JIT", "NUMBA_DEBUGINFO")  # of numba: they change what is compiled


def wants_jit() -> bool:
    """Whether somebody asked for numba: by name, or with an option of numba's that changes what is compiled."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("KLAIS_JIT", *JIT_OPTIONS))
