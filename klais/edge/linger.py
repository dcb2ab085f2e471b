"""The linger controller: how long a batch collects frames, and how long to wait between two polls of the source.

Every record on the staging topic costs broker and worker some milliseconds of CPU together, whatever its size. Waiting
for more frames saves records and costs latency. ``KLAIS_LATENCY_MS`` limits the latency: the linger uses the part that
the rest of the path leaves of it (``Settings.linger_ms``). At a trickle waiting saves nothing, because there is no
other frame to share the record with. So a linger that would collect fewer than four frames is shortened in proportion,
to 5 ms at least. With more than four partitions no linger is shorter than 2.5 ms for each partition (or than the
setting), so that an edge never writes more than about 400 records a second with a linger of 10 ms.

The cost of a record depends on the machine, so the workers' CPU shares scale the linger. While the busiest one needs
more than 0.72 of a core, or the host more than 0.85 of all its cores, the scale factor grows step by step, until the
linger is 100 ms (a longer one is not stretched). It decays again, faster below 0.62 and 0.73. A worker with a fifth of
a CPU is full with 100 records a second, whatever their size. It is better off with 40, and 0.1 s is less than the delay
of frames that wait for a full worker. ``bench/notes/latency.md`` has the measurements behind these numbers.

Polling follows the same rule: one round costs some hundred microseconds, whatever it returns. A loop that emptied the
socket sleeps for the linger before it polls again, like interrupt moderation in a network card. The frames that it then
finds count as that old, so a batch closes after one poll or two. With five polls a linger the edge needed 0.16 instead
of 0.12 of a core at 50,000 frames/s. The sleep is at most the time in which three quarters of one poll arrive, at most
a quarter of the time in which the receive buffer would fill, and at most 0.1 s, so that a stop is noticed. A linger
longer than these limits is split into equal intervals, because an interval that ends just before a batch comes due
would delay it by another interval. An idle edge does not sleep: it waits in the kernel until a frame arrives.
"""

import math

FULL_FRAMES = 4  # with at least this many in one linger it has its full length
FLOOR_NS = 5_000_000
RECORDS_NS = 10_000_000  # 400 records a second with four partitions; with more partitions the limit grows
BUSY, IDLE = 0.72, 0.62  # CPU share of the busiest worker above which the linger grows, below which it shrinks
# Each second. Between BUSY and IDLE the factor decays slowly: a start with busy workers must not keep the linger long.
GROW, DECAY, DECAY_SLOW = 1.25, 0.9, 0.97
STRETCHED_NS = 100_000_000  # limit of the stretched linger with up to four partitions
SCALE_MAX = 20.0
MAX_SLEEP_NS = 100_000_000
LOAD_PERIOD_NS = 1_000_000_000
POLL_FILLED = 0.75  # the poll interval ends when this share of one poll has arrived
PARTITIONS = 4  # up to this number the times apply unchanged
WINDOW_NS = 20_000_000
# Memory that the kernel charges for one small datagram: 768 bytes on loopback, up to 2,304 with a card's driver.
BOOKED_BYTES = 2304


class LingerController:
    """Linger and poll interval, computed from the frames received; the caller passes the time.

    Parameters
    ----------
    max_linger_ns : int
        Longest wait of a batch with up to four partitions, while the workers are not busy.
    buffer_bytes : int
        Memory that the kernel may use for datagrams that wait to be read.
    poll_frames : int
        Maximum number of frames that the source returns in one poll.
    partitions : int
        Partitions over which the frames are distributed.

    Attributes
    ----------
    rate_per_s : float
        Frames per second over the last window of at least 20 ms.
    linger_ns, poll_interval_ns : int
        Maximum age of a batch, and how long not to poll the source after it was empty.
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
        """Count ``frames`` received at ``now_ns``."""
        self._window_frames += frames
        elapsed_ns = now_ns - self._window_from_ns
        if elapsed_ns >= WINDOW_NS:
            self.rate_per_s = self._window_frames * 1e9 / elapsed_ns
            self._window_from_ns, self._window_frames = now_ns, 0
            self._adjust()

    def _adjust(self) -> None:
        share = min(1.0, self.rate_per_s * self.max_linger_ns * 1e-9 / FULL_FRAMES)
        min_ns = min(self.max_linger_ns, max(self._floor_ns, int(share * self.max_linger_ns)))
        self.linger_ns = int(self._scale * min_ns)
        longest_ns = min(MAX_SLEEP_NS, self._interval_frames * 1e9 / max(1.0, self.rate_per_s))
        self.poll_interval_ns = math.ceil(self.linger_ns / max(1, math.ceil(self.linger_ns / longest_ns)))

    def poll_wait_s(self, received: int) -> float:
        """Seconds to sleep after a poll that returned ``received`` frames; 0 after a full or an empty one."""
        return self.poll_interval_ns / 1e9 if 0 < received < self._poll_frames else 0.0
