"""A stand-in for numba that compiles nothing: to measure what a process would need without it. Kernels stay plain
Python.
"""

from types import SimpleNamespace
from typing import Any


class _Type:
    """Any type or signature: may be called, indexed, and has every attribute."""

    def __call__(self, *_args: Any, **_kwargs: Any) -> "_Type":
        return self

    def __getitem__(self, _index: Any) -> "_Type":
        return self

    def __getattr__(self, name: str) -> "_Type":
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def njit(*args: Any, **_kwargs: Any) -> Any:
    """``@njit``, ``@njit(signature, ...)``: the function itself."""
    return (
        args[0]
        if len(args) == 1 and callable(args[0]) and not isinstance(args[0], _Type)
        else lambda function: function
    )


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Type()


config = SimpleNamespace()
