"""Wall-clock time in the unit of Kafka's timestamps."""

import time

LATEST_MS = 1 << 43  # epoch ms, in the year 2248: what lies behind it in a record of others is no time


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
