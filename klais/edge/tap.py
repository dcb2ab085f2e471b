"""Taps of an edge: a few of the frames that it receives, shown live with what becomes of them (`klais tap --stage
edge`).

The spine asks once a batch whether a tap is open. With one open it compares columns and renders only what enters the
sample. The API's thread takes the samples.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klais.core.dam.overrides import PREFIX, begin_with
from klais.core.devices.layout import id_words
from klais.core.wire.constants import HEADER_SIZE, ID_OFFSET, Reason
from klais.edge.sinks.dead_letters import frame_bytes
from klais.edge.sources.base import Frames
from klais.system.address import source_text
from klais.telemetry import log as logs
from klais.telemetry.sample import MOST_PAYLOAD, OpenTaps, Reservoir, text_of

log = logs.get("klais.edge.tap")

VERDICT_NAMES = ("passed", "dropped", "malformed")
REASON_NAMES = (
    *("too_short", "bad_magic", "bad_device_id", "too_long", "unsigned", "bad_mac", "bad_epoch"),
    "global_rate",
)
_GLOBAL_RATE = np.uint8(Reason.GLOBAL_RATE)
Mask = npt.NDArray[np.bool_]


class Received(NamedTuple):
    """The frames of one batch and their columns, of length n, as the spine has them before it builds batches.

    ``reason`` uint8 (0 = good), ``id_size`` uint8 (0 = no device_id can be read), ``partition`` int32 (-1 = dropped),
    ``senders`` uint8 [n, 18].
    """

    source: Frames
    reason: npt.NDArray[np.uint8]
    partition: npt.NDArray[np.int32]
    ids: npt.NDArray[np.uint64]
    sequence: npt.NDArray[np.uint32]
    id_size: npt.NDArray[np.uint8]
    senders: npt.NDArray[np.uint8]

    @property
    def outcome(self) -> npt.NDArray[np.uint8]:
        """The reason of each frame, also of those above the host's limit."""
        return np.where((self.reason == 0) & (self.partition < 0), _GLOBAL_RATE, self.reason)


@dataclass(frozen=True, slots=True)
class EdgeFilter:
    """Which frames a tap shows; empty = any. At most ``sample`` a second."""

    device_id: bytes = b""
    prefix: bytes = b""
    verdict: str = ""
    reason: str = ""
    sample: int = 20

    def mask(self, batch: Received, outcome: npt.NDArray[np.uint8]) -> Mask:
        """Which frames of a batch match, bool [n]."""
        out: Mask = np.ones(len(outcome), np.bool_)
        if self.device_id:
            low, high = id_words(self.device_id)
            out &= (batch.ids[:, 0] == np.uint64(low)) & (batch.ids[:, 1] == np.uint64(high))
        if self.prefix:
            out &= begin_with(batch.ids, np.array([self.prefix], PREFIX)) != 0
        if self.verdict == "passed":
            out &= outcome == 0
        elif self.verdict:
            out &= outcome != 0
            if self.verdict == "malformed":
                out &= outcome != _GLOBAL_RATE
        if self.reason:
            out &= outcome == Reason[self.reason.upper()]
        return out


class EdgeTap:
    """One open tap."""

    def __init__(self, wanted: EdgeFilter) -> None:
        self.wanted = wanted
        self.viewed_s = time.monotonic()
        self._sample = Reservoir(wanted.sample)

    def look(self, edge_id: int, batch: Received, outcome: npt.NDArray[np.uint8]) -> None:
        """Note what matches of a batch."""
        found = np.flatnonzero(self.wanted.mask(batch, outcome))
        if len(found):
            self._sample.add(found, partial(frame_of, edge_id, batch, outcome, time.time_ns() // 1_000_000))

    def event(self) -> tuple[int, bytes]:
        """The next event; see :meth:`klais.telemetry.sample.Reservoir.event`."""
        self.viewed_s = time.monotonic()
        return self._sample.event()


class EdgeTaps(OpenTaps[EdgeFilter, EdgeTap]):
    """The open taps of an edge.

    Parameters
    ----------
    edge_id : int
        Number of the edge, shown with each frame.
    """

    def __init__(self, edge_id: int) -> None:
        super().__init__(EdgeTap)
        self._edge_id = edge_id

    def look(
        self,
        source: Frames,
        reason: npt.NDArray[np.uint8],
        partition: npt.NDArray[np.int32],
        ids: npt.NDArray[np.uint64],
        sequence: npt.NDArray[np.uint32],
        id_size: npt.NDArray[np.uint8],
    ) -> None:
        """Show a batch to all taps; called while one is open. Whatever fails here is no failure of the data path;
        columns as in :class:`Received`."""
        try:
            self.prune()
            senders = source.sources(len(reason))
            batch = Received(source, reason, partition, ids, sequence, id_size, senders)
            outcome = batch.outcome
            for tap in tuple(self.open.values()):
                tap.look(self._edge_id, batch, outcome)
        except Exception:
            self.open.clear()
            if logs.every(60, "klais.edge.tap"):
                log.exception("tap_failed")


def frame_of(edge_id: int, batch: Received, outcome: npt.NDArray[np.uint8], ts_ms: int, i: int) -> dict[str, Any]:
    """One frame for people. Of one whose header cannot be read, all of it is the payload."""
    reason, size = Reason(int(outcome[i])), int(batch.source.lengths[i])
    data = frame_bytes(batch.source, i, HEADER_SIZE + MOST_PAYLOAD)
    known = int(batch.id_size[i])
    verdict = "dropped" if reason == Reason.GLOBAL_RATE else "malformed" if reason else "passed"
    payload = text_of(data[HEADER_SIZE:], size - HEADER_SIZE) if known else text_of(data, size)
    return {
        "ts": ts_ms,
        "partition": int(batch.partition[i]) if batch.partition[i] >= 0 else None,
        "device_id": data[ID_OFFSET : ID_OFFSET + known].decode(errors="backslashreplace") or None,
        "seq": int(batch.sequence[i]) if known else None,
        "verdict": verdict,
        "reason": reason.label if reason else None,
        "flagged": False,
        "bytes": size,
        "payload": payload,
        "edge": edge_id,
        "source": source_text(batch.senders[i].tobytes()),
    }
