"""Checkpoint: a copy of what changed up to a step, and the marker row that says which step that is.

A snapshot names the step the lane is at and the rows that changed up to it; the rows are copied in pieces while the
lane goes on, so that it is never held up for long. All is written later, when all outputs up to the step of the last
piece are acknowledged: rows first, then the marker. So rows may be newer than the marker, as they are after a crash
between the two; their stamps make the replay step over what they already contain.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from klais.core.devices.layout import OPAQUE_ROW, ROW, ROW_VERSION, Rows
from klais.core.lane.names import NameTable
from klais.core.lane.state import TALLIES, LaneState
from klais.errors import JournalFormatError

MARKER_MAGIC = b"KLM1"
MARKER_VERSION = 2
_LENGTH = Struct("<4sI")
_RANGE = Struct("<qII")  # raw offset, frames of the batch, frames that wait

Ranges = list[tuple[int, int, npt.NDArray[np.int32]]]


@dataclass(slots=True)
class Snapshot:
    """State at ``step``: changed ``rows`` (a copy; valid as far as ``copied``) and all that the marker needs besides
    offsets.

    ``index`` int32 [n] says which rows of the lane they are.
    """

    step: int
    index: npt.NDArray[np.int32]
    rows: Rows
    copied: int
    facts: dict[str, Any]
    ranges: Ranges


@dataclass(slots=True)
class Marker:
    """A decoded marker. ``journal_offset``: where the journal goes on after ``step``; ``outputs``: topic -> offset
    after
    which this lane has put out nothing up to ``step``; ``ranges``: what waits in the queue."""

    step: int
    next_raw: int
    journal_offset: int
    outputs: dict[str, int]
    partitions: int
    facts: dict[str, Any]
    ranges: Ranges


def snapshot(state: LaneState) -> Snapshot:
    """What changed since the last snapshot, copied at once."""
    shot = begin_snapshot(state)
    copy_rows(state, shot, len(shot.index))
    return shot


def copy_rows(state: LaneState, shot: Snapshot, most: int) -> bool:
    """Copy up to ``most`` more rows, as they are now; whether all are copied."""
    begin, end = shot.copied, min(shot.copied + most, len(shot.index))
    shot.rows.view(OPAQUE_ROW)[begin:end] = state.rows.view(OPAQUE_ROW)[shot.index[begin:end]]
    shot.copied = end
    return end == len(shot.index)


def begin_snapshot(state: LaneState) -> Snapshot:
    """Everything but the rows, which :func:`copy_rows` fills in; starts a new dirty list."""
    if state.newest_taken is not None:
        state.note_taken(*state.newest_taken)
    index = state.dirty[: state.dirty_count].copy()
    state.clean_step = state.step
    state.dirty_count = 0
    facts = {
        "step": state.step,
        "next_raw": state.next_raw,
        "tokens": state.tokens,
        "bucket_ns": state.bucket_ns,
        "tally": state.tally.tolist(),
        "boots": [[edge, boot, number] for (edge, boot), number in state.boots.items()],
        "names": {str(key): text for key, text in state.path_names.items()},
        "used": state.used,
        "landmarks": state.landmarks.copy(),
    }
    return Snapshot(state.step, index, np.empty(len(index), ROW), 0, facts, state.queue.ranges())


def encode_marker(
    shot: Snapshot, journal_offset: int, outputs: dict[str, int], partitions: int, lineage: int = 0
) -> bytes:
    """The marker row's value; ``lineage`` is that of the lane's marks in its outputs."""
    head = orjson.dumps(
        {
            "version": MARKER_VERSION,
            "row_version": ROW_VERSION,
            "journal_offset": journal_offset,
            "outputs": outputs,
            "partitions": partitions,
            "lineage": lineage,
            **shot.facts,
        }
    )
    parts = [_LENGTH.pack(MARKER_MAGIC, len(head)), head]
    for raw_offset, count, index in shot.ranges:
        parts.append(_RANGE.pack(raw_offset, count, len(index)))
        bits = np.zeros(count, np.uint8)
        bits[index] = 1
        packed = np.packbits(bits)
        parts.append(packed.tobytes() if len(packed) <= 4 * len(index) else index.astype("<i4").tobytes())
    return b"".join(parts)


def decode_marker(value: bytes) -> Marker:
    """Read a marker row.

    Raises
    ------
    JournalFormatError
        Not a marker, or of another version.
    """
    if len(value) < _LENGTH.size or value[:4] != MARKER_MAGIC:
        raise JournalFormatError(f"not a checkpoint marker: {value[:16]!r}")
    _, size = _LENGTH.unpack_from(value)
    facts = orjson.loads(value[_LENGTH.size : _LENGTH.size + size])
    if facts["version"] != MARKER_VERSION or facts["row_version"] != ROW_VERSION or len(facts["tally"]) != TALLIES:
        raise JournalFormatError(
            f"checkpoint of version {facts['version']}.{facts['row_version']}, this code reads "
            f"{MARKER_VERSION}.{ROW_VERSION}: start a worker of that version, or stop all workers and recreate the "
            "changelog and journal topics (devices then start without history, and what klais_raw still holds is "
            "decided again)"
        )
    return Marker(
        facts["step"],
        facts["next_raw"],
        facts["journal_offset"],
        facts["outputs"],
        facts["partitions"],
        facts,
        list(_read_ranges(value, _LENGTH.size + size)),
    )


def _read_ranges(value: bytes, at: int) -> Ranges:
    ranges: Ranges = []
    while at < len(value):
        raw_offset, count, waiting = _RANGE.unpack_from(value, at)
        at += _RANGE.size
        packed = (count + 7) // 8
        if packed <= 4 * waiting:
            bits = np.unpackbits(np.frombuffer(value, np.uint8, packed, at), count=count)
            index = np.flatnonzero(bits).astype(np.int32)
            at += packed
        else:
            index = np.frombuffer(value, "<i4", waiting, at).astype(np.int32)
            at += 4 * waiting
        ranges.append((raw_offset, count, index))
    return ranges


def restore(marker: Marker | None, rows: Rows) -> LaneState:
    """State at the marker from the rows of the table; the caller then fills the queue and replays."""
    state = LaneState()
    if marker is None:
        state.restore_rows(rows, 0)
        return state
    state.restore_rows(rows, marker.step)
    facts = marker.facts
    state.step, state.next_raw = marker.step, marker.next_raw
    state.tokens, state.bucket_ns = facts["tokens"], facts["bucket_ns"]
    state.tally[:] = facts["tally"]
    for edge, boot, number in facts["boots"]:
        state.boots[(edge, boot)] = number
    state.landmarks = [(offset, fingerprint) for offset, fingerprint in facts["landmarks"]]
    state.path_names = NameTable({int(key): text for key, text in facts["names"].items()})
    return state


__all__ = ["Marker", "Snapshot", "begin_snapshot", "copy_rows", "decode_marker", "encode_marker", "restore", "snapshot"]
