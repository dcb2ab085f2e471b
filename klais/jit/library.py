"""The library of compiled kernels built by ``klais warm``: found, checked, loaded. This does not need numba.

``kernels`` in the cache folder has one folder for each state of the sources, and in it one for each CPU level, with
the library and ``manifest.json``: its SHA-256 and its kernels. Trees with equal sources share a library. Such a folder
is created by a rename, so that loading never waits. A library is code: it is loaded only if this user or root created
it, no other user can change it, and its hash is correct.
"""

import hashlib
import json
import os
import pickle
import platform
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from klais.errors import KlaisError, NotPrivate
from klais.jit.cached import mark_used
from klais.jit.machine import levels
from klais.jit.sources import package_folder, sources_of_kernels
from klais.jit.types import Signatures, Type, arguments_of, columns_of
from klais.system.paths import cache_root
from klais.system.private_files import check_tree, not_ours

LIBRARY, MANIFEST = "kernels.so", "manifest.json"
SHIPPED = Path("jit", "compiled")  # below the package


class NoLibrary(KlaisError):
    """No library of compiled kernels fits; the message has the reason."""


def library_folder(package: Path) -> Path:
    """The folder of the libraries that ``klais warm`` builds from exactly these sources for this Python and machine."""
    return cache_root() / "kernels" / sources_digest(package)


def shipped_folder(package: Path) -> Path:
    """The folder of the libraries of exactly these sources in a wheel."""
    return package / SHIPPED / sources_digest(package)


def sources_digest(package: Path) -> str:
    """The name of the libraries of these sources, this Python, this major version of numpy and this machine."""
    digest = hashlib.sha256()
    for name, text in sorted(sources_of_kernels(package).items()):
        digest.update(f"{name} {len(text)}\n".encode() + text)
    python = f"{sys.implementation.cache_tag}{sys.abiflags}"
    digest.update(f"{python} {platform.machine()} numpy {np.__version__.split('.')[0]}".encode())
    return digest.hexdigest()[:32]


class Library:
    """Kernels of a loaded library, by name."""

    def __init__(self, path: str, names: frozenset[str]) -> None:
        import ctypes

        self._names = names
        self._library = ctypes.PyDLL(path)
        self._function_of = ctypes.pythonapi.PyCFunction_NewEx
        self._function_of.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.py_object]
        self._function_of.restype = ctypes.py_object
        self._kept: list[Any] = []  # data types whose addresses are in the library

    def kernel(self, function: Callable[..., Any], signatures: Signatures | None) -> Callable[..., Any]:
        """The compiled form of ``function``; itself if it exists only for other kernels (it has no signature).

        Raises
        ------
        NoLibrary
            If the library does not have it.
        """
        if signatures is None:
            return function
        made = [
            self._make(name, arguments, function.__module__)
            for name, arguments in zip(kernel_names(function, signatures), arguments_of(signatures), strict=True)
        ]
        return made[0] if len(made) == 1 else _AnyOf(made)

    def _make(self, name: str, arguments: Sequence[Type], module: str) -> Callable[..., Any]:
        import ctypes

        if name not in self._names:
            raise NoLibrary(f"it has no kernel {name}; `klais warm` compiles it")
        objects = [np.ndarray, *(column.dtype for column in columns_of(arguments))]
        self._kept += objects
        slots = (ctypes.c_void_p * len(objects)).in_dll(self._library, f"types.{name}")
        slots[:] = [id(item) for item in objects]
        method = ctypes.c_char.in_dll(self._library, f"method.{name}")
        made: Callable[..., Any] = self._function_of(ctypes.addressof(method), _raise, module)
        return made


class _AnyOf:
    """A kernel with several signatures: the first that fits is called."""

    def __init__(self, kernels: Sequence[Callable[..., Any]]) -> None:
        self._kernels = kernels

    def __call__(self, *arguments: Any) -> Any:
        for kernel in self._kernels[:-1]:
            try:
                return kernel(*arguments)
            except TypeError:  # its arguments have other types
                continue
        return self._kernels[-1](*arguments)


def kernel_names(function: Callable[..., Any], signatures: Signatures) -> list[str]:
    """The name of a kernel in a library, for each signature."""
    name = f"{function.__module__}:{function.__qualname__}"
    return [name] if not isinstance(signatures, list) else [f"{name}.{k}" for k in range(len(signatures))]


def _raise(pickled: bytes) -> NoReturn:
    """Raise the exception of a kernel: numba stores it, as a pickle, in the code (which was checked)."""
    kind, arguments, _ = pickle.loads(pickled)
    raise kind(*arguments)


def _not_ours(info: os.stat_result, shipped: bool) -> str:
    if not stat.S_ISREG(info.st_mode):
        return "it is not a regular file"
    return "" if shipped else not_ours(info)


def open_library(package: Path | None = None) -> Library:
    """The library of exactly these sources for this machine, built by ``klais warm`` or shipped in a wheel.

    Raises
    ------
    NoLibrary
        If there is none, or it is damaged.
    NotPrivate
        If another user can have written it.
    """
    package = package or package_folder()
    folders = library_folder(package), shipped_folder(package)
    for level in levels():
        if (folders[0] / level).exists():
            mark_used(folders[0])
            return load_library(folders[0] / level)
        if (folders[1] / level).exists():
            return load_library(folders[1] / level, shipped=True)
    raise NoLibrary("no library of these sources was built for this CPU")


def _read_manifest(folder: Path, shipped: bool) -> tuple[str, frozenset[str]]:
    try:
        if not shipped:
            check_tree(folder, cache_root())
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return str(manifest["sha256"]), frozenset(manifest["kernels"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise NoLibrary(f"{folder / MANIFEST} cannot be read: {error}") from error


def load_library(folder: Path, shipped: bool = False) -> Library:
    """The library of one CPU level, after all checks. See :func:`open_library`.

    Of a ``shipped`` library only the hash is checked: a user who can change it can also change the Python files next to
    it, which run anyway.
    """
    digest, names = _read_manifest(folder, shipped)
    path = folder / LIBRARY
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NoLibrary(f"{path} cannot be opened: {error.strerror}") from error
    try:
        info = os.fstat(fd)
        if problem := _not_ours(info, shipped):
            raise NotPrivate(f"{path} holds code that this process would run, and {problem}. Remove it")
        with open(fd, "rb", closefd=False) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise NoLibrary(f"{path} is damaged: its SHA-256 is not the one of {MANIFEST}")
        # By its path, which no other user can change: the loader takes two files of one name as the same, so
        # /proc/self/fd could return another library.
        return Library(str(path), names)
    except OSError as error:  # refused by the dynamic loader
        raise NoLibrary(f"{path} cannot be loaded: {error}") from error
    finally:
        os.close(fd)
