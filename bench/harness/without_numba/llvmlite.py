"""Stand-in: comes with numba only."""

from numba import __getattr__  # noqa: F401
