"""``klais xdp``."""
