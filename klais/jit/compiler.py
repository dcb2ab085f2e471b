"""Kernels compiled in this process by numba: used if no compiled library fits, and to build one.

Compiled code is cached in a folder named by a hash of all kernel sources, numba's and numpy's version and the CPU,
because numba does not notice a change in a function of another file. Two processes that compile at once may damage each
other's files, so every compilation here runs under one file lock. A cached kernel is code, and numba's index files are
pickles, so a folder that another user could have written is refused.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from klais.errors import SetupMissing
from klais.jit import types as of
from klais.jit.cached import mark_used
from klais.jit.machine import cpu_flags
from klais.jit.sources import package_folder, sources_of_kernels
from klais.system.file_lock import lock_file
from klais.system.paths import cache_root
from klais.system.private_files import check_tree, named_folder, own_folder

COMPILE_WAIT_S = 900.0  # wait for one holder to compile one kernel


def _fingerprint() -> str:
    from importlib.metadata import version

    digest = hashlib.sha256()
    for name, text in sorted(sources_of_kernels(package_folder()).items()):
        digest.update(name.encode() + b"\0" + text)
    checks = os.environ.get("NUMBA_BOUNDSCHECK", "")  # changes the code, but numba's own index does not include it
    machine = (platform.machine(), " ".join(cpu_flags()), platform.python_version())
    for fact in (version("numba"), version("numpy"), *machine, checks):
        digest.update(fact.encode())
    return digest.hexdigest()[:16]


def _cache_dir() -> Path:
    """The folder of this code's kernels, which no other user can have written.

    Raises
    ------
    NotPrivate
        If another user owns it, or a part of it, or may write to it.
    SetupMissing
        If it cannot be created.
    """
    root = cache_root()
    try:
        named_folder(root, "KLAIS_CACHE_DIR")
        folder = own_folder(own_folder(root / "numba") / _fingerprint())
        check_tree(folder, root)
        named = Path(os.environ.get("NUMBA_CACHE_DIR") or folder)
        if named != folder:
            check_tree(named_folder(named, "NUMBA_CACHE_DIR"), named)
        os.environ["NUMBA_CACHE_DIR"] = str(named)
        mark_used(folder)
    except OSError as error:
        raise SetupMissing(
            f"compiled kernels cannot be kept in {root}: {error.strerror}. Name a folder that this user may write with "
            "KLAIS_CACHE_DIR"
        ) from error
    return folder


CACHE_DIR = _cache_dir()

import numba  # noqa: E402  (the cache folder must be named first)
import numpy as np  # noqa: E402

import klais.jit.lowering  # noqa: E402, F401  (numba then knows the intrinsics)

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]  # also if another module imported numba before this one


@contextmanager
def _compile_lock() -> Iterator[None]:
    fd = lock_file(CACHE_DIR / ".lock", f"the kernel cache {CACHE_DIR}", COMPILE_WAIT_S, _report_waiting)
    try:
        with without_scipy():
            yield
    finally:
        os.close(fd)


@contextmanager
def without_scipy() -> Iterator[None]:
    """Keep numba from importing SciPy's linear algebra at its first kernel. None uses it; saves 20 MB and 0.2 s."""
    # The import system treats None as "not installed". numba has imported the package itself by now.
    known = {"scipy": sys.modules["scipy"]} if "scipy" in sys.modules else {}
    sys.modules["scipy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["scipy"]
        sys.modules.update(known)


def _report_waiting(text: str) -> None:
    sys.stderr.write(f"klais: {text}\n")
    sys.stderr.flush()


def compile_here(
    function: Callable[..., Any], signature: of.Signatures | None, borrows: bool, inlined: bool
) -> Callable[..., Any]:
    """``function`` as numba's dispatcher, compiled now or loaded from numba's cache. See :func:`klais.jit.kernel`."""
    with _compile_lock():
        return dispatcher(function, signature, borrows, inlined, cache=True)  # type: ignore[no-any-return]


def dispatcher(
    function: Callable[..., Any],
    signature: of.Signatures | None,
    borrows: bool,
    inlined: bool,
    **options: Any,
) -> Any:
    """numba's dispatcher of a kernel, without the GIL, without fast-math."""
    if signature is None:
        return numba.njit(nogil=True, inline="never", **options)(function)
    options |= ({"_nrt": False} if borrows else {}) | ({"forceinline": True} if inlined else {})
    return numba.njit(_signature(signature), nogil=True, **options)(function)


def _signature(signature: of.Signatures) -> Any:
    if isinstance(signature, list):
        return [_signature(one) for one in signature]
    if isinstance(signature, tuple):
        return tuple(numba_type(kind) for kind in signature)
    return numba_type(signature.returns)(*(numba_type(kind) for kind in signature.arguments))


def numba_type(kind: of.Type) -> Any:
    """numba's type for one of ours."""
    if isinstance(kind, of.Column):
        layout = "C" if kind.contiguous else "A"
        return numba.types.Array(numba.from_dtype(kind.dtype), kind.dimensions, layout, readonly=kind.read_only)
    if isinstance(kind, of.Group):
        items = tuple(numba_type(item) for item in kind.items)
        return numba.types.Tuple(items) if kind.named is None else numba.types.NamedTuple(items, kind.named)
    return numba.void if kind.dtype is None else numba.from_dtype(np.dtype(kind.dtype))
