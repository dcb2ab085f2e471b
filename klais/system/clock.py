"""Wall-clock time in the unit of Kafka's timestamps."""

import time


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
