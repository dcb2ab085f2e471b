"""The filter's C to BPF instructions, by bcc: in a child process, because bcc and its clang take 140 MB.

``python -m klais.xdp.build [-Dname=value ...]`` writes the instructions to standard output. They name maps by placeholders,
which :func:`relocate` replaces by descriptors, so they can be kept: a machine that compiled once needs neither bcc nor
kernel headers to load the filter again.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from klais.errors import SetupMissing
from klais.system.paths import cache_root
from klais.xdp.layout import map_specs

BPF_DIR = Path(str(files("klais"))) / "_bpf"  # in the repository a link to bpf/; in a wheel its files
MAIN = "xdp_filter.c"
FUNCTION = "klais_xdp"
_BCC = "/usr/lib/python3/dist-packages"  # Debian's python3-bpfcc; PyPI's package called bcc is something else
_FIRST_FD = 0x4B4C0000  # placeholders: no process has as many files open
_TIMEOUT_S = 120
_MAP_FD, _MAP_VALUE, _LOAD_64 = 1, 2, 0x18
_INSTRUCTION = np.dtype([("op", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])

PLACEHOLDERS = {spec.name: _FIRST_FD + i for i, spec in enumerate(map_specs(1, 4096))}
_MEND = "`bin/setup` installs what is missing on Debian when it runs as root (python3-bpfcc, linux-headers-amd64)"


def instructions(defines: Sequence[str] = ()) -> bytes:
    """The compiled filter, with placeholders for maps; from the cache where this source was compiled before.

    Parameters
    ----------
    defines : sequence of str
        More ``-Dname=value`` for the compiler (benchmarks have variants).

    Raises
    ------
    SetupMissing
        bcc or the kernel's headers are missing, or the source cannot be compiled; with the compiler's words.
    """
    kept = cache_root() / "xdp" / f"{_fingerprint(defines)}.bpf"
    if kept.is_file():
        return kept.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", __name__, *defines],
        capture_output=True,
        timeout=_TIMEOUT_S,
        cwd=BPF_DIR.parents[1],
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        said = done.stderr.decode(errors="replace").strip() or f"the compiler ended with {done.returncode}"
        raise SetupMissing(f"the XDP filter cannot be compiled: {said}\n  {_MEND}")
    _keep(kept, done.stdout)
    return done.stdout


def ready() -> bool:
    """Whether this machine can compile the filter, or has; looks at files only."""
    headers = Path("/lib/modules") / platform.release() / "build"
    kept = cache_root() / "xdp" / f"{_fingerprint(())}.bpf"
    return kept.is_file() or ((Path(_BCC) / "bcc" / "__init__.py").is_file() and headers.is_dir())


def relocate(code: bytes, fds: Mapping[str, int]) -> bytes:
    """``code`` with the descriptors of maps in place of the placeholders."""
    out = np.frombuffer(code, _INSTRUCTION).copy()
    sources = out["registers"] >> 4
    loads = (out["op"] == _LOAD_64) & ((sources == _MAP_FD) | (sources == _MAP_VALUE))
    for name, placeholder in PLACEHOLDERS.items():
        out["imm"][loads & (out["imm"] == placeholder)] = fds[name]
    return out.tobytes()


def _fingerprint(defines: Sequence[str]) -> str:
    digest = hashlib.sha256()
    if not (BPF_DIR / MAIN).is_file():
        raise SetupMissing(f"the filter's source is not there: {BPF_DIR / MAIN} (install klais again: a part is missing)")
    for path in sorted(BPF_DIR.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update("\0".join([platform.machine(), *PLACEHOLDERS, *defines]).encode())
    return digest.hexdigest()[:16]


def _keep(path: Path, code: bytes) -> None:
    """Into the cache, whole or not at all; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, path)
    except OSError:
        return


def main(defines: Sequence[str]) -> int:
    """The child: compile, write to standard output. Needs no privilege."""
    out = os.dup(1)
    os.dup2(2, 1)  # bcc and clang write where they like
    if os.path.isdir(_BCC) and _BCC not in sys.path:
        sys.path.append(_BCC)
    try:
        from bcc import BPF
    except ImportError as error:
        print(f"Debian's python3-bpfcc is not installed ({error})", file=sys.stderr)
        return 1
    if not hasattr(BPF, "XDP"):
        print("the Python package bcc found here is not the BPF Compiler Collection: uninstall it", file=sys.stderr)
        return 1
    flags = [f"-I{BPF_DIR}", "-DKLAIS_KERNEL", *(f"-DKLAIS_FD_{name}={fd}" for name, fd in PLACEHOLDERS.items()), *defines]
    try:
        code = BPF(src_file=str(BPF_DIR / MAIN).encode(), cflags=flags).dump_func(FUNCTION.encode())
    except Exception as error:  # bcc raises bare Exception
        print(str(error), file=sys.stderr)
        return 1
    with os.fdopen(out, "wb") as file:
        file.write(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
