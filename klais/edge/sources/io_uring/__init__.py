"""The ``io_uring`` source: one multishot receive."""
