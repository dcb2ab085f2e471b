"""``klais up``: the whole of KLAIS on this machine, as children of one process. No kernel is loaded here (no numba)."""
