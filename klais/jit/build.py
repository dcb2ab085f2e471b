"""Compile all kernels into one library for each CPU level, which processes load without numba.

Several processes compile a part of the modules each and write object files; the system's linker makes a shared library
of them. The manifest is written last, and a library that is in use stays as it is, under a name that is gone.
"""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from klais.errors import SetupMissing
from klais.jit.library import FORMAT, MANIFEST, kernel_names, library_folder
from klais.jit.machine import X86_LEVELS, levels, target
from klais.jit.sources import kernel_modules, package_folder, sources_of_kernels
from klais.jit.types import Signatures
from klais.system.file_lock import lock_file
from klais.system.paths import cache_root
from klais.system.private_files import named_folder, own_folder, write_own

BUILD_WAIT_S = 900.0  # for another process that builds the same library
# Of a process that compiles a part: kernel -> the module that declares it, and what numba made of it.
_collected: dict[str, tuple[str, Any]] = {}


def collect(
    function: Callable[..., Any], signature: Signatures | None, borrows: bool, inlined: bool
) -> Callable[..., Any]:
    """Compile a kernel for the library. The function that it gives is for other kernels only."""
    from klais.jit.compiler import dispatcher

    made = dispatcher(function, signature, borrows, inlined, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    if signature is not None:
        owner = sys._getframe(2).f_globals["__name__"]  # the function may be defined in another module
        for name, compiled in zip(kernel_names(function, signature), made.overloads.values(), strict=True):
            if name in _collected:
                raise ValueError(f"two kernels have the name {name}")
            _collected[name] = owner, compiled
    return made  # type: ignore[no-any-return]


def build_library(wanted: Sequence[str] = (), jobs: int = 2, only: Sequence[str] = ()) -> Path:
    """Make the library for these CPU levels (this machine's best where none is named); its folder.

    ``only`` names the modules whose kernels it has, for tests; without it, it has all.

    Raises
    ------
    SetupMissing
        No linker is installed, or this machine has no level.
    """
    known = list(X86_LEVELS)
    chosen = sorted(wanted, key=known.index) if set(wanted) <= set(known) else list(wanted)  # the least is last
    chosen = chosen or levels()[:1]
    linker = shutil.which("ld") or shutil.which("cc")
    if not chosen or linker is None:
        missing = "a linker (Debian's package binutils)" if chosen else "a CPU of a known level"
        raise SetupMissing(f"no library of kernels: {missing} is missing. Each process compiles its own")
    package = package_folder()
    named_folder(cache_root(), "KLAIS_CACHE_DIR")
    folder = own_folder(own_folder(cache_root() / "kernels") / library_folder(package).name)
    held = lock_file(folder / ".lock", f"the kernel library {folder}", BUILD_WAIT_S)
    try:
        sources = {_file(name): hashlib.sha256(text).hexdigest() for name, text in sources_of_kernels(package).items()}
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)  # of a build that was killed
        work.mkdir(0o700)
        _compile(work, chosen, list(only) or kernel_modules(package), jobs)
        _publish(work, folder, chosen, linker, sources)
        shutil.rmtree(work)
    finally:
        os.close(held)
    return folder


def _file(module: str) -> str:
    return module.partition(".")[2].replace(".", "/") + ".py"


def _compile(work: Path, chosen: list[str], modules: list[str], jobs: int) -> None:
    """Have child processes write ``PART.LEVEL.o`` and ``PART.names``."""
    cpu, features = target(chosen[-1])  # code is optimized for the least of them and then made for each
    env = os.environ | {"KLAIS_JIT": "build", "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    env = {name: value for name, value in env.items() if name not in ("NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_JIT")}
    children = []
    for part, share in enumerate(_shares(modules, jobs)):
        code = "import sys; from klais.jit.build import compile_part; compile_part(*sys.argv[1:])"
        words = [sys.executable, "-c", code, str(work / str(part)), ",".join(chosen), *share]
        children.append(subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL))
    codes = [child.wait() for child in children]
    if any(codes):
        raise SetupMissing("the kernels could not be compiled into a library: see above")


def _shares(modules: list[str], jobs: int) -> list[list[str]]:
    """Modules in parts of about equal work: detectors, which depend on little else, and all others."""
    heavy = [name for name in modules if name.startswith("klais.core.anomaly.")]
    parts = [heavy, [name for name in modules if name not in heavy]] if jobs > 1 else [modules]
    return [part for part in parts if part]


def _publish(work: Path, folder: Path, chosen: list[str], linker: str, sources: dict[str, str]) -> None:
    names = sorted({name for file in work.glob("*.names") for name in file.read_text().split()})
    libraries = {}
    for level in chosen:
        made = work / f"{level}.so"
        objects = sorted(str(path) for path in work.glob(f"*.{level}.o"))
        options = ["-shared", "-z", "noexecstack", "-z", "relro", "-z", "undefs", "-o", str(made)]
        subprocess.run([linker, *options, *objects, *_c_libraries()], check=True)
        _load_once(made)
        libraries[level] = hashlib.sha256(made.read_bytes()).hexdigest()
    with suppress(FileNotFoundError):
        (folder / MANIFEST).unlink()
    for level in chosen:
        write_own(folder / f"{level}.so", (work / f"{level}.so").read_bytes())
    manifest = {"format": FORMAT, "libraries": libraries, "kernels": names, "sources": sources}
    write_own(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def _c_libraries() -> list[str]:
    """The C library and its mathematics that this process uses: linked, so that their newest functions are taken."""
    import math

    assert math.__name__
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in paths if Path(path).name.startswith(("libc.so", "libm.so", "libc-", "libm-")))


def _load_once(made: Path) -> None:
    """Load it with all symbols bound at once: what a kernel needs of numba at run time shows here, as an error."""
    words = [sys.executable, "-c", "import ctypes, os, sys; ctypes.PyDLL(sys.argv[1], os.RTLD_NOW)", str(made)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupMissing(f"the library of kernels cannot be loaded: {done.stderr.splitlines()[-1]}")


# --- a process that compiles a part ----------------------------------------------------------------------------------


def compile_part(out: str, chosen: str, *modules: str) -> None:
    """Compile the kernels of some modules: ``OUT.LEVEL.o`` for each level, and ``OUT.names``."""
    from klais.jit.compiler import without_scipy
    from klais.jit.objects import write_objects

    with without_scipy():
        for name in modules:
            importlib.import_module(name)
    mine = {name: made for name, (owner, made) in _collected.items() if owner in modules}
    write_objects(Path(out), chosen.split(","), mine)
    Path(f"{out}.names").write_text("\n".join(mine))
