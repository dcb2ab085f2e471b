"""Wall-clock time in the unit of Kafka's timestamps."""

import time

LATEST_MS = 1 << 43  # epoch ms, in the year 2248: later values in records from outside are not times


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
