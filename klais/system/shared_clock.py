"""The time by which blocks and limits end, the same in every process: Kafka's, where the clock of this host is wrong.

A record of ``klais_control`` names an end in Kafka's time. A host whose clock is a day ahead must not end a block that
an operator was told is in force, and one whose clock is behind must not keep it for a day.
"""

import time

TOLERANCE_S = 10.0
"""Up to this difference a host's clock counts as right: transmission takes some 10 ms, and a busy process more."""
_S = 1_000_000_000
FORGET_NS = 10 * _S  # a lower estimate replaces a higher one after this time: the broker's clock was set back


class SharedClock:
    """This host's clock, corrected by times of the broker (:meth:`heard`) if it is wrong.

    A step of the host's clock has no effect in between, because the monotonic clock carries the broker's time on.
    """

    def __init__(self) -> None:
        self._broker: tuple[int, int] | None = None  # broker's time minus monotonic time, when that was heard (ns)

    def heard(self, broker_ms: int) -> None:
        """A record that has just been read has this broker time (ms since the epoch)."""
        now_ns, known = time.monotonic_ns(), self._broker
        ahead_ns = broker_ms * 1_000_000 - now_ns
        # A record that waited to be read shows an earlier time than the broker has now.
        if known is None or ahead_ns >= known[0] or now_ns - known[1] > FORGET_NS:
            self._broker = ahead_ns, now_ns

    def forget(self) -> None:
        """Use this host's clock until a broker is heard: the cluster may be another one."""
        self._broker = None

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        own_ns, known = time.time_ns(), self._broker
        if known is None:
            return own_ns
        theirs_ns = known[0] + time.monotonic_ns()
        return own_ns if abs(own_ns - theirs_ns) <= TOLERANCE_S * _S else theirs_ns

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.time_ns() // 1_000_000


shared = SharedClock()
"""The clock of this process."""
