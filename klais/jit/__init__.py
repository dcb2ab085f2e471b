"""Compiled kernels: how they are declared and cached, and the machine instructions that numba lacks."""
