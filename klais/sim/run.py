"""The main loop of the simulator: build a chunk, send the frames that are due, record them, until time or count is
reached."""

import resource
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.sim.kinds import DUPLICATE, MAX_KIND, kind_label
from klais.sim.manifest import ManifestWriter
from klais.sim.sender import SLICE_FRAMES, Sender
from klais.sim.stream import Chunk, FrameStream
from klais.sim.traffic import UNPACED

CATCH_UP_S = 0.1  # the sender catches up with a delay up to this; it skips the rest
MIN_SLEEP_S = 0.001  # one slice a millisecond: 300 frames at 300,000/s
NONE = np.zeros(0, np.int64)
MAX_SLEEP_S = 0.05  # so that a signal or the end of the run is detected soon


@dataclass(slots=True)
class Progress:
    """Progress of a run: seconds since its start, frames sent, frames/s since the last report, seconds skipped."""

    elapsed_s: float = 0.0
    sent: int = 0
    sent_bytes: int = 0
    rate: float = 0.0
    refused: int = 0
    slipped_s: float = 0.0

    def public(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "elapsed_s": round(self.elapsed_s, 3),
            "sent": self.sent,
            "sent_bytes": self.sent_bytes,
            "rate_per_s": round(self.rate, 1),
            "refused": self.refused,
            "slipped_s": round(self.slipped_s, 3),
        }


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Destination and duration of a stream, and the recording.

    ``duration_s`` and ``count`` (frames) end the run, whichever is reached first; None = no limit. ``report_s`` is the
    interval of ``report``. The run calls ``stop`` between slices.
    """

    host: str
    port: int
    source_ports: int = 1
    duration_s: float | None = None
    count: int | None = None
    manifest: Path | None = None
    report_s: float = 1.0
    report: Report = field(default=lambda progress: None)
    stop: Callable[[], bool] = field(default=lambda: False)


def run(stream: FrameStream, plan: Plan) -> dict[str, Any]:
    """Send ``stream`` as in ``plan``; return the summary.

    Returns
    -------
    dict
        ``frames``, ``bytes``, ``seconds``, ``rate_per_s`` achieved, ``kinds`` (frames of each), ``refused``,
        ``slipped_s`` (time of the schedule that was skipped because the sender could not keep up),
        ``cpu_us_per_frame``, ``seed``.
    """
    with closing(Sender(plan.host, plan.port, plan.source_ports, plan.stop)) as sender:
        record = _Record(stream, plan.manifest)
        clock, progress = _Clock(stream, plan), Progress()
        cpu_at_start = _cpu_s()
        chunk, at = stream.next_chunk(), 0
        try:
            while not plan.stop():
                n = min(clock.due(sender.sent) - sender.sent, SLICE_FRAMES, chunk.count - at)
                if n > 0:
                    piece = slice(at, at + n)
                    record.mark(at, n)
                    at += n
                    sender.send(chunk.buf, chunk.starts[piece], chunk.lengths[piece], chunk.device[piece])
                    if at == chunk.count and not len(sender.unsent):
                        record.write(chunk, at)
                        chunk, at = stream.next_chunk(), 0
                elif clock.over(sender.sent):
                    break
                if n <= 0 or (n < SLICE_FRAMES and at > 0):
                    clock.wait(sender.sent)
                if clock.elapsed_s() - progress.elapsed_s >= plan.report_s:
                    _advance(progress, sender, clock)
                    plan.report(progress)
        finally:
            record.write(chunk, at, sender.unsent)
            seconds = clock.elapsed_s()
            summary = _summary(stream, sender, record, seconds, clock.slipped_s, _cpu_s() - cpu_at_start)
            record.close(summary)
    return summary


class _Clock:
    """Wall-clock pacing of a schedule, with bounded catch-up."""

    def __init__(self, stream: FrameStream, plan: Plan) -> None:
        self._schedule, self._duration_s, self._count = stream.schedule, plan.duration_s, plan.count
        self._start = time.perf_counter()
        self.slipped_s = 0.0
        self._unpaced = self._schedule.due(0.0) == UNPACED

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._start

    def due(self, sent: int) -> int:
        """Frames that should have been sent by now; skips time if the sender is too late."""
        elapsed_s = self.elapsed_s()
        over_s = 0.0 if self._duration_s is None else max(0.0, elapsed_s - self._duration_s)
        elapsed_s -= over_s
        if not self._unpaced:
            late_s = elapsed_s - self.slipped_s - self._schedule.time_of(sent)
            self.slipped_s += max(0.0, late_s - CATCH_UP_S)
        if over_s > (0.0 if self._unpaced else CATCH_UP_S):
            return 0
        due = self._schedule.due(max(0.0, elapsed_s - self.slipped_s))
        return due if self._count is None else min(due, self._count)

    def over(self, sent: int) -> bool:
        """Whether no more frames will be due, if all due frames are sent."""
        late = self._duration_s is not None and self.elapsed_s() >= self._duration_s
        return late or (self._count is not None and sent >= self._count)

    def wait(self, sent: int) -> None:
        """Sleep until the next frame is due, at least one slice."""
        if self._unpaced:
            return
        ahead_s = self._schedule.time_of(sent) - (self.elapsed_s() - self.slipped_s)
        left_s = MAX_SLEEP_S if self._duration_s is None else max(0.0, self._duration_s - self.elapsed_s())
        time.sleep(min(max(ahead_s, MIN_SLEEP_S), MAX_SLEEP_S, max(left_s, MIN_SLEEP_S)))


class _Record:
    """Sent frames: counts by kind, and the manifest's rows."""

    def __init__(self, stream: FrameStream, path: Path | None) -> None:
        self.kinds = np.zeros(MAX_KIND + 1, np.int64)
        self._sent_at_ns = np.zeros(0, np.int64)
        self._slice = 0
        self._file = None if path is None else ManifestWriter(path, manifest_header(stream))

    def mark(self, at: int, n: int) -> None:
        """Record the send time of frames ``at .. at + n`` of the chunk, the next slice."""
        self._slice = n
        if self._file is None:
            return
        if at + n > len(self._sent_at_ns):
            self._sent_at_ns = np.concatenate((self._sent_at_ns, np.zeros(at + n, np.int64)))
        self._sent_at_ns[at : at + n] = time.time_ns()

    def write(self, chunk: Chunk, given: int, unsent: npt.NDArray[np.int64] = NONE) -> None:
        """Write the first ``given`` frames of the chunk, which are sent, except ``unsent`` ones of the last slice."""
        sent = np.ones(given, np.bool_)
        sent[given - self._slice + unsent] = False
        self.kinds += np.bincount(chunk.kind[:given][sent], minlength=MAX_KIND + 1)
        if self._file is not None:
            which = np.flatnonzero(sent)
            columns = (chunk.device[which], chunk.sequence[which], chunk.hashes[which], chunk.kind[which])
            self._file.append(*columns, self._sent_at_ns[which])

    def close(self, summary: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.close(summary)


def manifest_header(stream: FrameStream) -> dict[str, Any]:
    """The manifest's first line: options, device ids, start."""
    header = stream.options.public() | {"devices": stream.devices, "started_at_ns": time.time_ns()}
    if stream.options.series is not None:
        header["ids"] = [stream.device_id(d).decode("utf-8") for d in range(stream.devices)]
    return header


def _advance(progress: Progress, sender: Sender, clock: _Clock) -> None:
    elapsed_s = clock.elapsed_s()
    progress.rate = (sender.sent - progress.sent) / max(elapsed_s - progress.elapsed_s, 1e-9)
    progress.elapsed_s, progress.sent, progress.sent_bytes = elapsed_s, sender.sent, sender.sent_bytes
    progress.refused, progress.slipped_s = sender.refused, clock.slipped_s


def _summary(
    stream: FrameStream, sender: Sender, record: _Record, seconds: float, slipped_s: float, cpu_s: float
) -> dict[str, Any]:
    return {
        "frames": sender.sent,
        "bytes": sender.sent_bytes,
        "seconds": round(seconds, 3),
        "rate_per_s": round(sender.sent / max(seconds, 1e-9), 1),
        "cpu_us_per_frame": round(1e6 * cpu_s / max(sender.sent, 1), 3),
        "kinds": {kind_label(int(k)): int(record.kinds[k]) for k in np.flatnonzero(record.kinds)},
        "new_frames": int(sender.sent - record.kinds[DUPLICATE]),
        "refused": sender.refused,
        "slipped_s": round(slipped_s, 3),
        "devices": stream.devices,
        "seed": stream.options.seed,
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
