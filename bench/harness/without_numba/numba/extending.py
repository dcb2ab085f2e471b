"""Stand-in, see the package."""

from numba import __getattr__  # noqa: F401
