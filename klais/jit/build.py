"""Compile all kernels into one library for each CPU level, which processes load without numba.

Several processes compile a part of the modules each and write object files; the system's linker makes a shared library
of them. A folder with the library and its manifest is then moved into place by a rename. Only builders of the same
library wait for each other.
"""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from klais.errors import SetupMissing
from klais.jit.library import LIBRARY, MANIFEST, NoLibrary, kernel_names, library_folder, load_library
from klais.jit.machine import levels, target
from klais.jit.options import JIT_OPTIONS
from klais.jit.sources import kernel_modules, package_folder
from klais.jit.types import Signatures
from klais.system.child import OwnedChild
from klais.system.file_lock import Report, lock_file
from klais.system.paths import cache_root
from klais.system.private_files import named_folder, own_folder, write_own

BUILD_WAIT_S = 900.0  # wait for another process that builds the same library
# In a process that compiles a part: kernel -> its module and numba's compile result.
_collected: dict[str, tuple[str, Any]] = {}


def collect(
    function: Callable[..., Any], signature: Signatures | None, borrows: bool, inlined: bool
) -> Callable[..., Any]:
    """Compile a kernel for the library. The returned function is for other kernels only."""
    from klais.jit.compiler import dispatcher

    made = dispatcher(function, signature, borrows, inlined, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    if signature is not None:
        owner = sys._getframe(2).f_globals["__name__"]  # the function may be defined in another module
        for name, compiled in zip(kernel_names(function, signature), made.overloads.values(), strict=True):
            if name in _collected:
                raise ValueError(f"two kernels have the name {name}")
            _collected[name] = owner, compiled
    return made  # type: ignore[no-any-return]


def build_library(
    wanted: Sequence[str] = (), jobs: int = 2, only: Sequence[str] = (), report_waiting: Report | None = None
) -> Path:
    """Build the library for each of these CPU levels (by default this machine's best); returns their folders.

    ``only`` restricts it to the kernels of these modules, for tests. If another process built a library while this one
    waited for it, that one is used.

    Raises
    ------
    SetupMissing
        If no linker is installed, or this machine has no known level.
    """
    chosen = list(wanted) or levels()[:1]
    linker = shutil.which("ld") or shutil.which("cc")
    if not chosen or linker is None:
        missing = "a linker (Debian's package binutils)" if chosen else "a CPU of a known level"
        raise SetupMissing(f"no library of kernels: {missing} is missing")
    package = package_folder()
    named_folder(cache_root(), "KLAIS_CACHE_DIR")
    folder = own_folder(own_folder(cache_root() / "kernels") / library_folder(package).name)
    held = lock_file(folder / ".lock", f"the kernel library {folder}", BUILD_WAIT_S, report_waiting)
    try:
        for level in chosen:
            if not _is_sound(folder / level):
                _make(folder / level, level, linker, list(only) or kernel_modules(package), jobs)
    finally:
        os.close(held)
    return folder


def _is_sound(folder: Path) -> bool:
    try:
        load_library(folder)
    except NoLibrary:
        return False
    return True


def _make(folder: Path, level: str, linker: str, modules: list[str], jobs: int) -> None:
    work = folder.with_name(f".{level}")  # the lock is ours: existing files are from a build that was killed
    shutil.rmtree(work, ignore_errors=True)
    try:
        own_folder(work)
        made, parts = own_folder(work / "made"), own_folder(work / "parts")
        _compile(parts, level, modules, jobs)
        _link(parts, made / LIBRARY, level, linker)
        names = sorted({name for file in parts.glob("*.names") for name in file.read_text().split()})
        digest = hashlib.sha256((made / LIBRARY).read_bytes()).hexdigest()
        write_own(made / MANIFEST, json.dumps({"sha256": digest, "kernels": names}, indent=1).encode())
        if folder.exists():  # it is damaged
            folder.rename(work / "old")
        made.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile(parts: Path, level: str, modules: list[str], jobs: int) -> None:
    """Have child processes write ``PART.o`` and ``PART.names``."""
    cpu, features = target(level)
    env = os.environ | {"KLAIS_JIT": "build", "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    env = {name: value for name, value in env.items() if name not in JIT_OPTIONS}
    children = []
    with ExitStack() as ending:  # a child that lives on would write into the folder of the next build
        for part, share in enumerate(_shares(modules, jobs)):
            code = "import sys; from klais.jit.build import compile_part; compile_part(*sys.argv[1:])"
            words = [sys.executable, "-P", "-c", code, str(parts / str(part)), level, *share]
            children.append(OwnedChild(words, None, env))
            ending.callback(children[-1].stop, 0.0)
        for child in children:
            child.wait()
    if any(child.returncode for child in children):
        raise SetupMissing("the kernels could not be compiled into a library: see above")


def _shares(modules: list[str], jobs: int) -> list[list[str]]:
    """Modules in parts of about equal work: detectors, which have few dependencies, and all others."""
    heavy = [name for name in modules if name.startswith("klais.core.anomaly.")]
    parts = [heavy, [name for name in modules if name not in heavy]] if jobs > 1 else [modules]
    return [part for part in parts if part]


def _link(parts: Path, made: Path, level: str, linker: str) -> None:
    objects = sorted(str(path) for path in parts.glob("*.o"))
    options = ["-shared", "-z", "noexecstack", "-z", "relro", "-z", "undefs", "-o", str(made)]
    done = subprocess.run([linker, *options, *objects, *_c_libraries()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupMissing(f"the library of kernels cannot be linked: {done.stderr.strip()[-500:]}")
    made.chmod(0o600)
    if level in levels():
        _load_once(made)


def _c_libraries() -> list[str]:
    """The C and math libraries of this process: linked, so that their newest functions are used."""
    import math

    assert math.__name__
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in paths if Path(path).name.startswith(("libc.so", "libm.so", "libc-", "libm-")))


def _load_once(made: Path) -> None:
    """Load it with all symbols bound immediately: missing run-time symbols of numba show up here, as an error."""
    words = [sys.executable, "-c", "import ctypes, os, sys; ctypes.PyDLL(sys.argv[1], os.RTLD_NOW)", str(made)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupMissing(f"the library of kernels cannot be loaded: {done.stderr.splitlines()[-1]}")


# --- a process that compiles a part ----------------------------------------------------------------------------------


def compile_part(out: str, level: str, *modules: str) -> None:
    """Compile the kernels of some modules: ``OUT.o`` and ``OUT.names``."""
    from klais.jit.compiler import without_scipy
    from klais.jit.objects import object_code

    with without_scipy():
        for name in modules:
            importlib.import_module(name)
    mine = {name: made for name, (owner, made) in _collected.items() if owner in modules}
    Path(f"{out}.o").write_bytes(object_code(level, mine))
    Path(f"{out}.names").write_text("\n".join(mine))
