"""Checkpoint: a copy of all changes up to a step, and the marker row that names the step.

A snapshot names the lane's present step and the rows that changed up to it. The rows are copied in pieces while the
lane continues, so that it is never blocked for long. The checkpoint is written later, when all outputs up to the step
of the last piece are acknowledged: rows first, then the marker. So rows may be newer than the marker, as they are after
a crash between the two; their stamps make the replay skip steps that they already contain. Ids of forgotten devices are
removed before the rows are written, so that a device that has come back keeps its newer row.

The marker's value: magic ``KLM1``, u32 bytes of JSON, u32 bytes of boots, u32 ranges, then these three: the JSON, BOOT
records (:mod:`klais.core.lane.boots`), and the queue. The queue has one _RANGE record for each raw record with queued
frames; then, if not all of its frames are queued, a bit for each frame; last a bit for each queued frame that shows
whether it belongs to the round being served (:mod:`klais.core.dam.fair`). Each part is bounded, so that the marker fits
one Kafka record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from klais.core.anomaly.detector import Detector
from klais.core.devices.layout import OPAQUE_ROW, OTHER_VERSION, ROW, ROW_VERSION, Rows
from klais.core.lane.columns import Columns
from klais.core.lane.journal import LAST_STEP
from klais.core.lane.names import NameTable
from klais.core.lane.queue import MAX_RANGE_BYTES
from klais.core.lane.state import NO_KEY, TALLIES, LaneState
from klais.errors import BatchFormatError, JournalFormatError, OtherVersion
from klais.system import shallow_json

MARKER_MAGIC = b"KLM1"
MARKER_VERSION = 3
_HEAD = Struct("<4sIII")  # magic, bytes of JSON, bytes of boots, ranges
# Raw offset, frames of the batch, how many of them are queued.
_RANGE = np.dtype([("offset", "<i8"), ("frames", "<u4"), ("waiting", "<u4")])

_DAMAGE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)  # when it is not a marker

Ranges = list[tuple[int, int, npt.NDArray[np.int32]]]


@dataclass(slots=True)
class Snapshot:
    """State at ``step``: changed ``rows`` (a copy; valid as far as ``copied``) and everything that the marker needs
    except offsets.

    ``index`` int32 [n] has the lane's row numbers of them; ``forgotten`` are ids to remove from the changelog.
    """

    step: int
    index: npt.NDArray[np.int32]
    rows: Rows
    copied: int
    facts: dict[str, Any]
    boots: bytes
    ranges: Ranges
    served_now: npt.NDArray[np.uint8]
    forgotten: list[bytes]

    def live_rows(self, begin: int = 0, end: int | None = None) -> Rows:
        """The copied rows that are devices; rows freed since the snapshot are not."""
        rows = self.rows[begin:end]
        live = rows["id_size"] > 0
        return rows if live.all() else rows.view(OPAQUE_ROW)[live].view(ROW)


@dataclass(slots=True)
class Marker:
    """A decoded marker. ``journal_offset``: where the journal continues after ``step``; ``outputs``: topic -> offset
    after which this lane has written no output up to ``step``; ``telemetry_epoch``: the producer epoch of the record
    before that offset on the clean topic, -1 = unknown; ``ranges``: the queued frames, and ``served_now`` uint8
    [frames]: which of these belong to the round being served."""

    step: int
    next_raw: int
    journal_offset: int
    outputs: dict[str, int]
    telemetry_epoch: int
    partitions: int
    facts: dict[str, Any]
    boots: bytes
    ranges: Ranges
    served_now: npt.NDArray[np.uint8]


def snapshot(state: LaneState) -> Snapshot:
    """Snapshot of the changes since the last one, copied in one call."""
    shot = begin_snapshot(state)
    copy_rows(state, shot, len(shot.index))
    return shot


def copy_rows(state: LaneState, shot: Snapshot, max_count: int) -> bool:
    """Copy up to ``max_count`` more rows in their present state; returns whether all are copied."""
    begin, end = shot.copied, min(shot.copied + max_count, len(shot.index))
    shot.rows.view(OPAQUE_ROW)[begin:end] = state.rows.view(OPAQUE_ROW)[shot.index[begin:end]]
    shot.copied = end
    return end == len(shot.index)


def begin_snapshot(state: LaneState) -> Snapshot:
    """Snapshot without the rows, which :func:`copy_rows` fills in; starts a new dirty list."""
    if state.newest_taken is not None:
        state.note_taken(*state.newest_taken)
    index = state.dirty[: state.dirty_count].copy()
    state.clean_step = state.step
    state.dirty_count = 0
    forgotten, state.forgotten = [key for key in state.forgotten if state.find(key) < 0], set()
    facts = {
        "step": state.step,
        "next_raw": state.next_raw,
        "tokens": state.tokens,
        "bucket_ns": state.bucket_ns,
        "tally": state.tally.tolist(),
        "names": {str(key): text for key, text in state.path_names.items()},
        "landmarks": state.landmarks.copy(),
        "new_devices": state.new_devices,
        "devices": state.devices,
        "skipped": state.boots.skipped(),
    }
    rows = np.zeros(len(index), ROW)
    return Snapshot(state.step, index, rows, 0, facts, state.boots.dump(), *state.queue.ranges(), forgotten)


def encode_marker(
    shot: Snapshot,
    journal_offset: int,
    outputs: dict[str, int],
    partitions: int,
    lineage: int = 0,
    telemetry_epoch: int = -1,
) -> bytes:
    """The marker row's value; ``lineage`` identifies the lane's marks in its outputs."""
    head = orjson.dumps(
        {
            "version": MARKER_VERSION,
            "row_version": ROW_VERSION,
            "journal_offset": journal_offset,
            "outputs": outputs,
            "telemetry_epoch": telemetry_epoch,
            "partitions": partitions,
            "lineage": lineage,
            **shot.facts,
        }
    )
    ranges = np.array([(offset, count, len(index)) for offset, count, index in shot.ranges], _RANGE)
    parts = [_HEAD.pack(MARKER_MAGIC, len(head), len(shot.boots), len(ranges)), head, shot.boots, ranges.tobytes()]
    for _, count, index in shot.ranges:
        if len(index) < count:
            bits = np.zeros(count, np.uint8)
            bits[index] = 1
            parts.append(np.packbits(bits).tobytes())
    parts.append(np.packbits(shot.served_now).tobytes())
    return b"".join(parts)


def decode_marker(value: bytes) -> Marker:
    """Read a marker row.

    Raises
    ------
    JournalFormatError
        If it is not a marker, or is damaged.
    OtherVersion
        If another version of KLAIS wrote it.
    """
    if len(value) < _HEAD.size or value[:4] != MARKER_MAGIC:
        raise JournalFormatError(f"not a checkpoint marker: {value[:16]!r}")
    _, size, boots, ranges = _HEAD.unpack_from(value)
    try:
        facts = shallow_json.loads(value[_HEAD.size : _HEAD.size + size])
        if facts["version"] != MARKER_VERSION or facts["row_version"] != ROW_VERSION or len(facts["tally"]) != TALLIES:
            raise OtherVersion(
                f"checkpoint of version {facts['version']}.{facts['row_version']}, this code reads "
                f"{MARKER_VERSION}.{ROW_VERSION}: {OTHER_VERSION}"
            )
        if not (0 <= facts["step"] <= LAST_STEP and facts["next_raw"] >= 0 and facts["journal_offset"] >= 0):
            raise ValueError(f"step {facts['step']}, offsets {facts['next_raw']} and {facts['journal_offset']}")
        if not all(isinstance(n, int) and n >= 0 for n in (*facts["outputs"].values(), facts["lineage"])):
            raise ValueError(f"outputs {facts['outputs']}, lineage {facts['lineage']}")
        at = _HEAD.size + size
        found, end = _read_ranges(value, at + boots, ranges)
        waiting = sum(len(index) for _, _, index in found)
        served_now = np.unpackbits(np.frombuffer(value, np.uint8, (waiting + 7) // 8, end), count=waiting)
        return Marker(
            int(facts["step"]),
            int(facts["next_raw"]),
            int(facts["journal_offset"]),
            facts["outputs"],
            int(facts.get("telemetry_epoch", -1)),
            facts["partitions"],
            facts,
            value[at : at + boots],
            found,
            served_now,
        )
    except _DAMAGE as error:
        raise JournalFormatError(f"damaged checkpoint marker ({error!r}): {OTHER_VERSION}") from error


def read_marker(value: bytes) -> Marker:
    """Like :func:`decode_marker`, and checks that a state can be restored from it."""
    marker = decode_marker(value)
    restore(marker, np.empty(0, ROW))
    return marker


def _read_ranges(value: bytes, at: int, count: int) -> tuple[Ranges, int]:
    """The ranges, and the offset of the bytes after them."""
    found = np.frombuffer(value, _RANGE, count, at)
    at += found.nbytes
    if 2 * int(((found["frames"].astype(np.int64) + 7) // 8).sum()) > MAX_RANGE_BYTES:
        raise ValueError(f"{found['frames'].sum()} frames are more than may wait")
    ranges: Ranges = []
    for raw_offset, frames, waiting in found.tolist():
        index = np.arange(frames, dtype=np.int32)
        if waiting < frames:
            packed = (frames + 7) // 8
            bits = np.unpackbits(np.frombuffer(value, np.uint8, packed, at), count=frames)
            index = np.flatnonzero(bits).astype(np.int32)
            at += packed
        ranges.append((raw_offset, frames, index))
    return ranges, at


def restore(marker: Marker | None, rows: Rows, hash_key: bytes = NO_KEY, detector: Detector | None = None) -> LaneState:
    """State at the marker from the rows of the table; the caller then fills the queue and replays.

    ``hash_key``, ``detector``: see :class:`klais.core.lane.state.LaneState`.
    """
    state = LaneState(hash_key=hash_key, detector=detector)
    if marker is None:
        state.restore_rows(rows, 0)
        return state
    state.restore_rows(rows, marker.step)
    facts = marker.facts
    state.step, state.next_raw = marker.step, marker.next_raw
    try:
        state.tokens, state.bucket_ns = float(facts["tokens"]), int(facts["bucket_ns"])
        state.tally[:] = facts["tally"]
        state.landmarks = [(int(offset), int(fingerprint)) for offset, fingerprint in facts["landmarks"]]
        state.new_devices = float(facts["new_devices"])
        state.boots.load(marker.boots, facts.get("skipped", []))
        state.path_names = NameTable({int(key): text for key, text in facts["names"].items()})
    except _DAMAGE as error:
        raise JournalFormatError(f"damaged checkpoint marker ({error!r}): {OTHER_VERSION}") from error
    return state


def refill_queue(state: LaneState, marker: Marker, waiting: Mapping[int, Columns]) -> None:
    """Queue the frames that were queued at the marker, in the same order; ``waiting``: their raw records by offset.

    Raises
    ------
    BatchFormatError
        If the number of frames of a record differs from the marker's.
    """
    begin = 0
    for raw_offset, count, index in marker.ranges:
        columns = waiting[raw_offset]
        if columns.count != count:
            raise BatchFormatError(f"raw offset {raw_offset} had {count} frames at the checkpoint, now {columns.count}")
        state.queue.push(raw_offset, columns, index, marker.served_now[begin : begin + len(index)])
        begin += len(index)


__all__ = [
    "Marker",
    "Snapshot",
    "begin_snapshot",
    "copy_rows",
    "decode_marker",
    "read_marker",
    "encode_marker",
    "refill_queue",
    "restore",
    "snapshot",
]
