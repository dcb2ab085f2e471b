"""Taps of an edge: a live sample of the frames that it receives, with their outcome (`klais tap --stage edge`).

The spine checks once a batch whether a tap is open. If so, it compares columns and renders only the sampled frames. The
API's thread takes the samples.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import HEADER_SIZE, ID_OFFSET, Reason
from klais.edge.sinks.dead_letters import frame_bytes
from klais.edge.sources.base import Frames
from klais.system.address import source_text
from klais.telemetry.sample import MAX_PAYLOAD_BYTES, Mask, OpenTap, OpenTaps, Selection, text_of

_GLOBAL_RATE, _BLOCKED_SOURCE = np.uint8(Reason.GLOBAL_RATE), np.uint8(Reason.BLOCKED_SOURCE)
_BY_RULE = (Reason.GLOBAL_RATE, Reason.BLOCKED_SOURCE)  # dropped, whatever they contain


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
        """The reason of each frame, including those above the host's limit."""
        return np.where((self.reason == 0) & (self.partition < 0), _GLOBAL_RATE, self.reason)


class EdgeFilter(Selection):
    """Which frames of a batch a tap shows."""

    __slots__ = ()

    def mask(self, batch: Received, outcome: npt.NDArray[np.uint8]) -> Mask:
        """Mask of the matching frames of a batch, bool [n]."""
        out = self.of_devices(batch.ids)
        if self.verdict == "passed":
            out &= outcome == 0
        elif self.verdict:
            out &= outcome != 0
            if self.verdict == "malformed":
                out &= (outcome != _GLOBAL_RATE) & (outcome != _BLOCKED_SOURCE)
        if self.reason:
            out &= outcome == Reason[self.reason.upper()]
        return out


class EdgeTap(OpenTap[EdgeFilter]):
    """One open tap."""

    def observe(self, edge_id: int, batch: Received, outcome: npt.NDArray[np.uint8]) -> None:
        """Sample the matching frames of a batch."""
        found = np.flatnonzero(self.wanted.mask(batch, outcome))
        if len(found):
            self._sample.add(found, partial(frame_of, edge_id, batch, outcome, time.time_ns() // 1_000_000))


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

    def observe(
        self,
        source: Frames,
        reason: npt.NDArray[np.uint8],
        partition: npt.NDArray[np.int32],
        ids: npt.NDArray[np.uint64],
        sequence: npt.NDArray[np.uint32],
        id_size: npt.NDArray[np.uint8],
    ) -> None:
        """Pass a batch to all open taps; columns as in :class:`Received`."""
        with self.shown() as taps:
            senders = source.sources(len(reason))
            batch = Received(source, reason, partition, ids, sequence, id_size, senders)
            outcome = batch.outcome
            for tap in taps:
                tap.observe(self._edge_id, batch, outcome)


def frame_of(edge_id: int, batch: Received, outcome: npt.NDArray[np.uint8], ts_ms: int, i: int) -> dict[str, Any]:
    """One frame in readable form. If its header cannot be read, all of it is shown as the payload."""
    reason, size = Reason(int(outcome[i])), int(batch.source.lengths[i])
    data = frame_bytes(batch.source, i, HEADER_SIZE + MAX_PAYLOAD_BYTES)
    known = int(batch.id_size[i])
    verdict = "dropped" if reason in _BY_RULE else "malformed" if reason else "passed"
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
