"""The one way to declare a kernel: a typed loop over columns, written in Python, compiled by numba.

numba compiles in the process, or loads what it compiled before (``klais/jit/compiler.py``). Where a library of the
kernels was made (``klais warm --library``, ``klais/jit/library.py``), a process takes them from there and does not
import numba, unless that library is stale or damaged, or ``KLAIS_JIT=1``.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from klais.errors import SetupMissing
from klais.jit.library import NoLibrary, is_made, open_library
from klais.jit.sources import package_folder
from klais.jit.types import (
    BYTES,
    F64,
    I32,
    I64,
    IDS,
    U8,
    U16,
    U32,
    U64,
    Signatures,
    boolean,
    float32,
    float64,
    group,
    int32,
    int64,
    read_only,
    record,
    uint8,
    uint16,
    uint32,
    uint64,
    void,
)

__all__ = [
    "BYTES", "F64", "I32", "I64", "IDS", "U8", "U16", "U32", "U64", "boolean", "float32", "float64", "group",
    "int32", "int64", "read_only", "record", "uint8", "uint16", "uint32", "uint64", "void", "kernel",
]  # fmt: skip


JIT_OPTIONS = ("NUMBA_BOUNDSCHECK", "NUMBA_DISABLE_JIT", "NUMBA_DEBUGINFO")  # of numba: they change what is compiled


class Maker(Protocol):
    """Makes the compiled form of a function; see :func:`kernel`."""

    def __call__(
        self, function: Callable[..., Any], signature: Signatures | None, borrows: bool, inlined: bool
    ) -> Callable[..., Any]: ...


def kernel(
    signature: Signatures | None = None, borrows: bool = False, inlined: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile ``function`` for ``signature``, without the GIL, without fast-math; or take it from the library.

    Parameters
    ----------
    signature : Signature, list of them, or tuple of the arguments' types
        Types are those of ``klais.jit.types``. None is for helpers that other kernels take in: Python cannot rely on
        calling their compiled form.
    borrows : bool
        The kernel only borrows its arrays: it makes none and returns none (numba refuses it otherwise), so it keeps no
        reference counts. Without this every call from another kernel costs two atomic operations for each array.
    inlined : bool
        Other kernels take it in whole, however long it is: a call passes each array as seven words.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return _maker()(function, signature, borrows, inlined)

    return decorate


def choose_maker() -> Maker:
    """Where kernels come from; says so in the log where they are compiled here though nobody asked for that.

    Raises
    ------
    SetupMissing
        From nowhere: there is no library that fits, and no numba.
    NotPrivate
        Somebody else can have written the library.
    """
    if os.environ.get("KLAIS_JIT") == "build":
        from klais.jit.build import collect

        return collect
    if not wants_jit() and is_made(package_folder()):
        try:
            library = open_library()
        except NoLibrary as error:
            logging.getLogger(__name__).warning(
                "kernels are compiled in this process (%s). `klais warm --library` makes the library again", error
            )
        else:
            return lambda function, signature, borrows, inlined: library.kernel(function, signature)
    try:
        from klais.jit.compiler import compile_here
    except ModuleNotFoundError as error:
        raise SetupMissing(
            f"there is no library of compiled kernels that fits, and to compile them {error.name} is missing: "
            "`pip install numba`, then `klais warm --library`"
        ) from error
    return compile_here


def wants_jit() -> bool:
    """Whether somebody asked for numba: by name, or with an option of numba's that changes what is compiled."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("KLAIS_JIT", *JIT_OPTIONS))


_maker = cache(choose_maker)  # once, at the first kernel: all kernels of a process come from one place
