"""The types that a kernel's signature names, without numba: scalars, columns of them, tuples.

They look like numba's own: ``int64(uint8[::1], float64)`` is a signature, ``uint32[:, ::1]`` a C-contiguous array of
two dimensions. The compiler translates them to numba's types (``klais/jit/compiler.py``); the library of compiled
kernels needs only the data types of the columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Signature:
    """Argument and result types of a kernel."""

    returns: "Type"
    arguments: tuple["Type", ...]


class _Callable:
    __slots__ = ()

    def __call__(self, *arguments: "Type") -> Signature:
        """The signature of a kernel that returns this type."""
        return Signature(self, arguments)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Scalar(_Callable):
    """A number, a boolean, nothing (``void``), or a row of a structured array; ``dtype`` is None for ``void``."""

    name: str
    dtype: npt.DTypeLike | None = None

    def __getitem__(self, axes: slice | tuple[slice, ...]) -> "Column":
        """Array type: ``[::1]`` is a contiguous column, ``[:, ::1]`` a C-contiguous table, ``[:, :]`` any table."""
        slices = axes if isinstance(axes, tuple) else (axes,)
        return Column(np.dtype(self.dtype), len(slices), contiguous=slices[-1].step == 1)


@dataclass(frozen=True, slots=True)
class Column(_Callable):
    """An aligned array; ``contiguous``: in C order; ``read_only``: the kernel also accepts a read-only one."""

    dtype: Any
    dimensions: int
    contiguous: bool = True
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Group(_Callable):
    """A tuple; ``named`` is the class of a named tuple."""

    items: tuple["Type", ...]
    named: type | None = None


Type = Scalar | Column | Group
Signatures = Signature | tuple[Type, ...] | list[Signature]
"""The forms that :func:`klais.jit.kernel.kernel` accepts: a signature, only the arguments, or several signatures."""


def arguments_of(signatures: Signatures) -> list[tuple[Type, ...]]:
    """The argument types of each signature."""
    each = signatures if isinstance(signatures, list) else [signatures]
    return [one.arguments if isinstance(one, Signature) else one for one in each]


def read_only(column: Column) -> Column:
    """The same array type for a kernel that does not write it."""
    return replace(column, read_only=True)


def record(dtype: npt.DTypeLike) -> Scalar:
    """A row of a structured array."""
    return Scalar("record", np.dtype(dtype))


def group(items: Sequence[Type], named: type | None = None) -> Group:
    """A tuple of these types, of the class ``named`` if given."""
    return Group(tuple(items), named)


def columns_of(types: Sequence[Type]) -> Iterator[Column]:
    """All columns in ``types``, including those in tuples, in order."""
    for kind in types:
        if isinstance(kind, Column):
            yield kind
        elif isinstance(kind, Group):
            yield from columns_of(kind.items)


void = Scalar("void")
boolean = Scalar("boolean", np.bool_)
uint8, uint16, uint32, uint64 = (Scalar(name, name) for name in ("uint8", "uint16", "uint32", "uint64"))
int32, int64 = Scalar("int32", "int32"), Scalar("int64", "int64")
float32, float64 = Scalar("float32", "float32"), Scalar("float64", "float64")

# BYTES also accepts read-only arrays (a Kafka value is one); the others are C-contiguous columns.
BYTES = read_only(uint8[::1])
U8 = uint8[::1]
U16 = uint16[::1]
U32 = uint32[::1]
U64 = uint64[::1]
I32 = int32[::1]
I64 = int64[::1]
F64 = float64[::1]
IDS = uint64[:, ::1]
