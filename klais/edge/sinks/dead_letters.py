"""Send malformed frames to the dead-letter topic: a sample, bounded per second in records and bytes. The counters
include all of them."""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import ID_OFFSET, MAX_FRAME_SIZE, Reason
from klais.core.wire.partition import partition_of
from klais.edge.counts import Counts
from klais.edge.sinks.allowance import FairAllowance
from klais.edge.sinks.base import DeadLetterSink
from klais.edge.sources.base import Frames
from klais.system.address import source_text


class DeadLetters:
    """Sends malformed frames, as many as ``rate_per_s`` and ``bytes_per_s`` allow, fair by reason and source
    (:mod:`klais.edge.sinks.allowance`).

    For a frame that is too long, the letter has the first ``frame_max_bytes`` and a header ``bytes`` with its length.
    The Python loop here processes the allowed sample only, so a flood of malformed data costs no more than the sample.
    """

    def __init__(
        self,
        sink: DeadLetterSink,
        counts: Counts,
        rate_per_s: float,
        bytes_per_s: float,
        edge_id: int,
        partitions: int,
        frame_max_bytes: int = MAX_FRAME_SIZE,
    ) -> None:
        self._frame_max_bytes = frame_max_bytes
        self._sink, self._counts = sink, counts
        self._allowance = FairAllowance(rate_per_s, bytes_per_s, frame_max_bytes)
        self._edge = str(edge_id).encode()
        self._partitions = partitions
        self._next = 0

    def set_rates(self, rate_per_s: float, bytes_per_s: float) -> None:
        """Change the rates at run time."""
        self._allowance.set_rates(rate_per_s, bytes_per_s)

    def send(
        self,
        source: Frames,
        bad: npt.NDArray[np.int64],
        reason: npt.NDArray[np.uint8],
        id_size: npt.NDArray[np.uint8],
        now_ns: int,
        wall_ns: int,
    ) -> None:
        """Send the frames listed in ``bad`` (int64 [m]), as far as the rate allows.

        ``reason`` and ``id_size`` (uint8 [n]) are the columns of ``check_headers``; a device_id is readable if
        ``id_size`` is not 0.
        """
        sent = 0
        if self._allowance.open(now_ns):
            rows = source.sources(n := int(bad[-1]) + 1)
            ts = str(wall_ns // 1_000_000).encode()
            for i in self._allowance.choose(bad, reason, source.lengths[:n], rows, now_ns).tolist():
                headers = [
                    ("reason", Reason(int(reason[i])).label.encode()),
                    ("edge", self._edge),
                    ("ts", ts),
                    ("source", source_text(rows[i].tobytes()).encode()),
                    ("stage", b"edge"),
                ]
                frame = frame_bytes(source, i)
                if len(frame) > self._frame_max_bytes:
                    headers.append(("bytes", str(len(frame)).encode()))
                    frame = frame[: self._frame_max_bytes]
                key = frame[ID_OFFSET : ID_OFFSET + int(id_size[i])] or None
                sent += self._sink.dead_letter(frame, key, headers, self._partition(key))
        self._counts.dead_letters_suppressed += len(bad) - sent

    def _partition(self, key: bytes | None) -> int:
        if key:
            return partition_of(key, self._partitions)
        self._next = (self._next + 1) % self._partitions
        return self._next


def frame_bytes(source: Frames, i: int, max_bytes: int = 1 << 16) -> bytes:
    """Frame ``i`` of the last ``fill``, in one piece; of a longer one its first ``max_bytes`` bytes."""
    size = min(int(source.lengths[i]), max_bytes)
    in_head = min(size, source.head_size)
    start, rest = int(source.starts[i]), int(source.tail_starts[i])
    return source.head[start : start + in_head].tobytes() + source.tail[rest : rest + size - in_head].tobytes()
