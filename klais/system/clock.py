"""Wall-clock time in the unit of Kafka's timestamps."""

import time
from typing import Any, TypeGuard

LATEST_MS = 1 << 43  # epoch ms, in the year 2248: later values in records from outside are not times


def is_time_ms(value: Any) -> TypeGuard[int]:
    """Whether a value in a record from outside is a time in epoch milliseconds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LATEST_MS


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
