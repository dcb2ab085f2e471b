"""``klais doctor``."""
