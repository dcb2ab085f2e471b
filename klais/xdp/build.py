"""Compile the filter's C to BPF instructions, with bcc in a child process without privileges
(:mod:`klais.xdp.bcc_child`).

The instructions refer to maps by placeholders, which :func:`relocate` replaces by descriptors, so they can be cached: a
machine that has compiled once needs neither bcc nor kernel headers to load the filter again.
"""

import errno
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from klais.errors import SetupMissing
from klais.system.paths import cache_root
from klais.xdp import bytecode_cache
from klais.xdp.bcc_child import BCC
from klais.xdp.layout import map_specs

BPF_DIR = Path(str(files("klais"))) / "_bpf"  # in the repository a link to bpf/; in a wheel a copy
MAIN = "xdp_filter.c"
FUNCTION = "klais_xdp"
MODULES = Path("/lib/modules")
_CHILD = Path(__file__).with_name("bcc_child.py")
_DEBIAN_PYTHON = "/usr/bin/python3"  # bcc's own dependency
_NOBODY = 65_534
_FIRST_FD = 0x4B4C0000  # placeholders: no process has this many open files
_TIMEOUT_S = 120
_MAP_FD, _MAP_VALUE, _LOAD_64 = 1, 2, 0x18
_OTHERS_MAY_WRITE = 0o022
_INSTRUCTION = np.dtype([("op", "u1"), ("registers", "u1"), ("offset", "<i2"), ("imm", "<i4")])

PLACEHOLDERS = {spec.name: _FIRST_FD + i for i, spec in enumerate(map_specs(1, 4096))}
_FIX = "`bin/setup` installs what is missing on Debian when it runs as root (python3-bpfcc, linux-headers-amd64)"


def instructions(defines: Sequence[str] = ()) -> bytes:
    """The compiled filter, with placeholders for maps; from the cache if this source was compiled before.

    Parameters
    ----------
    defines : sequence of str
        Further ``-Dname=value`` options for the compiler (benchmarks have variants).

    Raises
    ------
    SetupMissing
        If bcc or the kernel's headers are missing, or the source cannot be compiled; with the compiler's messages.
    """
    fingerprint = _fingerprint(defines)
    code = bytecode_cache.read(_folder(), fingerprint)
    if code is None:
        code = _compile(defines)
        bytecode_cache.write(_folder(), fingerprint, code)
    return code


def ready() -> bool:
    """Whether this machine can compile the filter, or has done so; checks only files."""
    if bytecode_cache.read(_folder(), _fingerprint(())) is not None:
        return True
    return (Path(BCC) / "bcc" / "__init__.py").is_file() and headers_problem() is None


def headers_problem(modules: Path = MODULES) -> str | None:
    """Why the compiler must not be started here, or None.

    Without headers below ``/lib/modules`` bcc takes some from ``/tmp``, which any user can have put there
    (CVE-2024-2314).
    """
    kernel = modules / platform.release()
    if not (kernel / "build" / ".").is_dir():
        return f"there are no kernel headers at {kernel / 'build'}"
    for name in ("build", "source"):  # bcc reads both
        real = (kernel / name).resolve()
        for folder in (real, *real.parents) if real.exists() else ():
            status = folder.stat()
            if status.st_uid != 0 or status.st_mode & _OTHERS_MAY_WRITE:
                return (
                    f"{kernel / name} leads to {real}, and {folder} is not exclusively root's: its headers are not used"
                )
    return None


def _folder() -> Path:
    return cache_root() / "xdp"


def _compile(defines: Sequence[str]) -> bytes:
    if problem := headers_problem():
        raise SetupMissing(f"the XDP filter cannot be compiled: {problem}\n  {_FIX}")
    fds = [f"-DKLAIS_FD_{name}={fd}" for name, fd in PLACEHOLDERS.items()]
    with tempfile.TemporaryDirectory(prefix="klais-build-") as name:
        folder = Path(name)
        for path in (*BPF_DIR.glob("*.[ch]"), _CHILD):  # a checkout may be readable only by its owner
            (folder / path.name).write_bytes(path.read_bytes())
            (folder / path.name).chmod(0o644)
        folder.chmod(0o755)
        python = _DEBIAN_PYTHON if shutil.which(_DEBIAN_PYTHON) else sys.executable
        command = [python, "-I", _CHILD.name, name, MAIN, FUNCTION, "-DKLAIS_KERNEL", *fds, *defines]
        done = _run_unprivileged(command, folder)
    if done.returncode != 0 or not done.stdout:
        message = done.stderr.decode(errors="replace").strip() or f"the compiler exited with code {done.returncode}"
        raise SetupMissing(f"the XDP filter cannot be compiled: {message}\n  {_FIX}")
    return done.stdout


def _run_unprivileged(command: list[str], folder: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run the compiler as user nobody with an empty environment, or as this user if that is not root."""
    options: dict[str, Any] = {"capture_output": True, "timeout": _TIMEOUT_S, "cwd": folder, "env": {}, "check": False}
    if os.geteuid() != 0:
        return subprocess.run(command, **options)
    try:
        return subprocess.run(command, user=_NOBODY, group=_NOBODY, extra_groups=[], **options)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return subprocess.run(command, **options)  # a user namespace without nobody: its root has no rights outside of it


def relocate(code: bytes, fds: Mapping[str, int]) -> bytes:
    """Replace the placeholders in ``code`` by the descriptors of maps."""
    out = np.frombuffer(code, _INSTRUCTION).copy()
    sources = out["registers"] >> 4
    loads = (out["op"] == _LOAD_64) & ((sources == _MAP_FD) | (sources == _MAP_VALUE))
    for name, placeholder in PLACEHOLDERS.items():
        out["imm"][loads & (out["imm"] == placeholder)] = fds[name]
    return out.tobytes()


def _fingerprint(defines: Sequence[str]) -> str:
    digest = hashlib.sha256()
    if not (BPF_DIR / MAIN).is_file():
        raise SetupMissing(f"the filter's source is missing: {BPF_DIR / MAIN} (install klais again)")
    for path in sorted(BPF_DIR.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    digest.update("\0".join([platform.machine(), *PLACEHOLDERS, *defines]).encode())
    return digest.hexdigest()[:16]
