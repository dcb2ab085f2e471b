"""The only way to declare a kernel: a typed loop over columns, written in Python, compiled by numba.

numba compiles in the process, or loads what it compiled before (``klais/jit/compiler.py``). If ``klais warm`` has built
a library of the kernels (``klais/jit/library.py``), a process takes them from there and does not import numba, unless
the sources have changed since, or ``KLAIS_JIT=1`` is set.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from klais.errors import SetupMissing
from klais.jit.library import NoLibrary, open_library
from klais.jit.options import wants_jit
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
        Types are those of ``klais.jit.types``. None is for helpers that only other kernels call: Python cannot rely on
        calling their compiled form.
    borrows : bool
        The kernel only borrows its arrays: it creates none and returns none (numba refuses it otherwise), so it keeps
        no reference counts. Without this every call from another kernel costs two atomic operations for each array.
    inlined : bool
        Other kernels inline it, however long it is: a call passes each array as seven words.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return _maker()(function, signature, borrows, inlined)

    return decorate


def choose_maker() -> Maker:
    """The source of kernels; logs a warning if they are compiled here without a request for that.

    Raises
    ------
    SetupMissing
        If there is neither a library that fits nor numba.
    NotPrivate
        If another user can have written the library.
    """
    if os.environ.get("KLAIS_JIT") == "build":
        from klais.jit.build import collect

        return collect
    if not wants_jit():
        try:
            library = open_library()
        except NoLibrary as error:
            logging.getLogger(__name__).warning(
                "this process imports numba for its kernels, so it starts more slowly: %s. `klais warm` builds it",
                error,
            )
        else:
            return lambda function, signature, borrows, inlined: library.kernel(function, signature)
    try:
        from klais.jit.compiler import compile_here
    except ModuleNotFoundError as error:
        raise SetupMissing(
            f"there is no library of compiled kernels that fits, and to compile them {error.name} is missing: "
            "`pip install numba`, then `klais warm`"
        ) from error
    return compile_here


_maker = cache(choose_maker)  # once, at the first kernel: all kernels of a process have the same source
