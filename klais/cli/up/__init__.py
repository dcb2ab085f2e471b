"""``klais up``: the whole of KLAIS on this machine, as children of one process that loads no kernels (no numba)."""
