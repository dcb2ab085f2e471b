"""``klais top``."""
