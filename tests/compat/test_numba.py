"""What the kernels use of numba and its documentation does not promise: option ``_nrt``, compiling without SciPy."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from klais.jit.sources import sources_of_kernels


def test_a_kernel_that_only_borrows_counts_no_references() -> None:
    def total(values):
        out = 0.0
        for value in values:
            out += value
        return out

    counted = numba.njit("float64(float64[::1])", nogil=True)(total)
    borrowed = numba.njit("float64(float64[::1])", nogil=True, _nrt=False)(total)
    assert borrowed(np.ones(3)) == counted(np.ones(3)) == 3.0
    assert "NRT_" not in next(iter(borrowed.inspect_llvm().values()))


def test_a_kernel_that_makes_an_array_is_refused_without_reference_counts() -> None:
    with pytest.raises(Exception, match=r"(?i)nrt"):
        numba.njit("float64[::1](int64)", _nrt=False)(lambda n: np.ones(n))


def test_kernels_load_and_run_without_the_linear_algebra_of_scipy() -> None:
    """numba's first kernel would import it: 20 MB and 0.2 s of every start."""
    code = (
        "import sys\n"
        "import numba\n"
        "from klais.core.wire.partition import murmur2, partition_of\n"
        "assert isinstance(murmur2, numba.core.dispatcher.Dispatcher)\n"
        "assert partition_of(b'dev', 1) == 0\n"
        "import scipy\n"
        "print([name for name in sys.modules if name.startswith('scipy.linalg')])\n"
    )
    env = os.environ | {"KLAIS_JIT": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"


def test_the_cache_follows_the_sources_that_a_kernel_imports(tmp_path: Path) -> None:
    """numba looks at the file of the kernel only; constants and helpers of other files are compiled in as well."""
    package = tmp_path / "klais"
    package.mkdir()
    (package / "kernels.py").write_text("from klais.layout import SIZE\n\n@kernel(void())\ndef f(): pass\n")
    (package / "layout.py").write_text("from klais.units import NS\nSIZE = 3\n")
    (package / "units.py").write_text("NS = 1\n")
    (package / "web.py").write_text("from klais.layout import SIZE\n")
    assert set(sources_of_kernels(package)) == {"klais.kernels", "klais.layout", "klais.units"}
