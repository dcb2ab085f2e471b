"""The linger controller: how long a batch collects frames, and how long to wait between two polls of the source.

Every record on the staging topic costs broker and worker some milliseconds of CPU together, whatever it holds; waiting
for more frames buys fewer records and costs latency. ``KLAIS_LATENCY_MS`` says how much latency: the linger uses what
the rest of the way leaves of it (``Settings.linger_ms``). At a trickle waiting buys nothing, because there is no other
frame to share the record with: where a linger brings fewer than four frames it is shorter in proportion, 5 ms at
least. With more than four partitions no linger is shorter than 2.5 ms for each partition (or than the setting), so that
an edge never makes more than about 400 records a second with a linger of 10 ms. With 5 ms at 5,000 frames/s (800
records a second) two cores were full in their slow hours and p99 was 77 and 485 ms, with 10 ms 35 and 71 ms in
alternating runs; in good hours p50 was 9.5 ms with 5 ms, 13 with 10 ms.

The cost of a record depends on the machine, so the workers' own CPU shares scale the linger: while the busiest one
needs more than 0.72 of a core, or the host more than 0.85 of all its cores, the scale factor grows step by step, until
the linger is 100 ms (a longer one is not stretched), and decays again, faster below 0.62 and 0.73. A worker with a
fifth of a CPU is full with 100 records a second, whatever they hold: it is better off with 40, and a tenth of a second
is less than what would wait for it. On a slow machine with everything on its two cores 50,000 frames/s were 13 ms late
at the median with a linger of 9 to 12 ms; with 7 ms both cores were busy (37 to 170 ms), and with 5 ms the worker fell
seconds behind. On a machine between the two (two cores, a record costs the worker 0.95 ms) 50,000 frames/s took 1.5,
1.4, 1.2, 1.1 and 0.9 cores with lingers of 6, 8, 10, 14 and 20 ms, and were 17.6, 17.5, 16.5, 18.9 and 23.5 ms late at
the median, 44, 41, 38, 38 and 40 at p99 (all five in turns, four times).

Polling follows the same rule: one round costs some hundred microseconds, whatever it brings. A loop that emptied the
socket sleeps for the linger before it polls again, as a network card moderates its interrupts, and what it finds then
counts as that old: so a batch closes after one poll or two (with five polls a linger the edge needed 0.16 instead of
0.12 of a core at 50,000 frames/s). It never sleeps longer than it takes to receive three quarters of what one poll
brings, nor than a quarter of the time in which the receive buffer would fill, nor than a tenth of a second, in which a
stop must be noticed. Where the linger is longer than that, it is split into equal intervals, because an interval that
ends just before a batch comes due holds it for another. An idle edge does not sleep: it waits in the kernel until a
frame arrives.
"""

import math

FULL_FRAMES = 4  # in one linger, from which on it is as long as it may be
FLOOR_NS = 5_000_000
RECORDS_NS = 10_000_000  # with four partitions 400 records a second; no shorter with more of them
BUSY, IDLE = 0.72, 0.62  # CPU share of the busiest worker above which the linger grows, below which it shrinks
# Each second. Between BUSY and IDLE the factor decays slowly: a start with busy workers must not keep the linger long.
GROW, DECAY, DECAY_SLOW = 1.25, 0.9, 0.97
STRETCHED_NS = 100_000_000  # how long the linger may grow with up to four partitions
SCALE_MAX = 20.0
LONGEST_SLEEP_NS = 100_000_000
LOAD_PERIOD_NS = 1_000_000_000
POLL_FILLED = 0.75  # the poll interval ends when so much of one poll is there
PARTITIONS = 4  # up to this number the times hold as they stand
WINDOW_NS = 20_000_000
# What the kernel books for one small datagram: 768 bytes on loopback, up to 2,304 behind a network card's driver.
BOOKED_BYTES = 2304


class LingerController:
    """Linger and poll interval, from the frames received; the caller passes the time.

    Parameters
    ----------
    max_linger_ns : int
        A batch waits no longer than this with up to four partitions, while the workers are not busy.
    buffer_bytes : int
        What the kernel may book for datagrams that wait to be read.
    poll_frames : int
        What the source brings in one poll at most.
    partitions : int
        Partitions that the frames are spread over.

    Attributes
    ----------
    rate_per_s : float
        Frames per second over the last window of at least 20 ms.
    linger_ns, poll_interval_ns : int
        How old a batch may become, and how long not to poll the source after it was empty.
    """

    def __init__(self, max_linger_ns: int, buffer_bytes: int, poll_frames: int, partitions: int = PARTITIONS) -> None:
        self._poll_frames = poll_frames
        spread = max(PARTITIONS, partitions) / PARTITIONS
        self.max_linger_ns = max(max_linger_ns, int(spread * min(max_linger_ns, RECORDS_NS)))
        self._scale_max = min(SCALE_MAX, max(1.0, spread * STRETCHED_NS / max(1, self.max_linger_ns)))
        self._floor_ns = int(FLOOR_NS * spread)
        self._interval_frames = max(1.0, min(POLL_FILLED * poll_frames, buffer_bytes / BOOKED_BYTES / 4))
        self.rate_per_s = 0.0
        self._window_from_ns = 0
        self._window_frames = 0
        self._scale = 1.0
        self._load_at_ns = 0
        self._adjust()

    def load(self, busiest: float, now_ns: int) -> None:
        """Scale the linger by the share of a core that the busiest worker needs (0 = unknown); at
        most once a second.
        """
        if now_ns - self._load_at_ns < LOAD_PERIOD_NS:
            return
        self._load_at_ns = now_ns
        if busiest > BUSY:
            self._scale = min(self._scale_max, self._scale * GROW)
        else:
            self._scale = max(1.0, self._scale * (DECAY if busiest < IDLE else DECAY_SLOW))

    def observe(self, frames: int, now_ns: int) -> None:
        """Count ``frames`` that were received at ``now_ns``."""
        self._window_frames += frames
        elapsed_ns = now_ns - self._window_from_ns
        if elapsed_ns >= WINDOW_NS:
            self.rate_per_s = self._window_frames * 1e9 / elapsed_ns
            self._window_from_ns, self._window_frames = now_ns, 0
            self._adjust()

    def _adjust(self) -> None:
        share = min(1.0, self.rate_per_s * self.max_linger_ns * 1e-9 / FULL_FRAMES)
        least_ns = min(self.max_linger_ns, max(self._floor_ns, int(share * self.max_linger_ns)))
        self.linger_ns = int(self._scale * least_ns)
        longest_ns = min(LONGEST_SLEEP_NS, self._interval_frames * 1e9 / max(1.0, self.rate_per_s))
        self.poll_interval_ns = math.ceil(self.linger_ns / max(1, math.ceil(self.linger_ns / longest_ns)))

    def poll_wait_s(self, received: int) -> float:
        """Seconds to sleep after a poll that brought so many frames; 0 after a full or an empty one."""
        return self.poll_interval_ns / 1e9 if 0 < received < self._poll_frames else 0.0
