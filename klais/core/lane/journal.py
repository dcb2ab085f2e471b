"""The journal: one record a step, with all that its replay needs besides the raw record (numpy only, no numba).

Little-endian header, then for RAW steps the limits of devices that had some of their own (SPECIAL rows), then the
verdict of each frame in half a byte, low half first. ``VERSION`` covers all that a replay recomputes rather than reads
(row layout, frame hash, scorer arithmetic): change those, bump it. Version 3 added the fingerprint of the raw record
and RESUMED steps.
"""

import zlib
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from klais.core.dam.special import NONE, SPECIAL, Special
from klais.errors import JournalFormatError

MAGIC = b"KLJ1"
OWNER_MAGIC = b"KLO1"
OWNER_KEY = b"\x00owner"
MARKER_KEY = b"\x00marker"
VERSION = 3
HEADER = Struct("<4sBBHQqqdddddIIdHHIII")
FINGERPRINT_BYTES = 64  # of a raw record; a frame batch has edge, boot, number and time of receipt in its first 32


class Kind(IntEnum):
    """What a step took in."""

    RAW = 1  # one frame batch
    RELEASE = 2  # frames from the head of the queue
    REPEATED = 3  # a frame batch that the edge had to send twice: ignored
    CORRUPT = 4  # a record that is no frame batch: dead letter
    LOST = 5  # raw records that retention removed before the lane read them: counted, alarmed
    POISON = 6  # a record on which the lane failed again and again: dead letter
    RESUMED = 7  # the lane goes on although something is missing: what is lost is counted, step and offset may jump


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force for one step, journalled with it (rates in frames/s, allowances in records).

    ``dead_letters`` and ``flags`` are how many records of each this step may write; beyond it they are only counted.
    """

    rate: float
    burst: float
    device_rate: float
    device_burst: float
    dead_letters: int
    flags: int
    anomaly_z: float
    anomaly_min_samples: int
    anomaly_window: int


NEEDS_RAW = (Kind.RAW, Kind.CORRUPT, Kind.POISON)  # a replay reads the raw record of these


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a recovery could not restore, as frames unless it says otherwise.

    ``output_lost``: decided to pass and never put out, or put out and lost by Kafka. ``queue_lost``: they waited in the
    queue. ``doubled``: records of the clean topic that this lane decides and puts out a second time.
    """

    output_lost: int = 0
    queue_lost: int = 0
    doubled: int = 0
    why: str = ""

    @property
    def lost(self) -> int:
        """Frames lost in all."""
        return self.output_lost + self.queue_lost


@dataclass(slots=True)
class StepRecord:
    """One journalled step.

    ``raw_offset``: the raw record taken (RAW, REPEATED, CORRUPT, POISON), the last one lost (LOST), the one before the
    next to take (RESUMED), -1 (RELEASE). ``tokens``: the global bucket after the step. ``count``: frames (RAW,
    REPEATED, RELEASE, POISON), records (CORRUPT, LOST). ``flagged``: anomaly flags raised, written or not. ``special``:
    SPECIAL rows of devices of this batch with limits of their own. ``raw_crc``: fingerprint of the raw record.
    """

    step: int
    kind: Kind
    raw_offset: int
    now_ns: int
    limits: Limits
    tokens: float
    count: int
    verdict: npt.NDArray[np.uint8]
    flagged: int = 0
    special: Special = field(default_factory=lambda: NONE)
    raw_crc: int = 0
    resumed: Resumed | None = None


NO_VERDICTS: npt.NDArray[np.uint8] = np.empty(0, np.uint8)


def fingerprint(value: bytes) -> int:
    """uint32 that tells one raw record from another at the same offset: of its beginning and its size.

    Examples
    --------
    >>> fingerprint(b"abc") != fingerprint(b"abcd")
    True
    """
    return zlib.crc32(value[:FINGERPRINT_BYTES], len(value))


def encode_step(record: StepRecord) -> bytes:
    """The journal record of a step."""
    at = record.limits
    head = HEADER.pack(
        MAGIC,
        VERSION,
        record.kind,
        len(record.special),
        record.step,
        record.raw_offset,
        record.now_ns,
        at.rate,
        at.burst,
        at.device_rate,
        at.device_burst,
        record.tokens,
        at.dead_letters,
        at.flags,
        at.anomaly_z,
        at.anomaly_min_samples,
        at.anomaly_window,
        record.count,
        record.flagged,
        record.raw_crc,
    )
    if record.resumed is not None:
        return head + orjson.dumps(asdict(record.resumed))
    if not len(record.verdict):
        return head
    padded = np.zeros(len(record.verdict) + 1 & ~1, np.uint8)
    padded[: len(record.verdict)] = record.verdict
    return head + record.special.tobytes() + (padded[::2] | (padded[1::2] << 4)).tobytes()


def decode_step(value: bytes) -> StepRecord:
    """Read one journal record.

    Raises
    ------
    JournalFormatError
        Another program's record, another version, or a damaged one.

    Examples
    --------
    >>> limits = Limits(1.0, 2.0, 3.0, 4.0, 5, 6, 7.0, 8, 9)
    >>> record = StepRecord(1, Kind.RAW, 0, 10, limits, 1.5, 3, np.array([0, 2, 9], np.uint8))
    >>> decode_step(encode_step(record)).verdict.tolist()
    [0, 2, 9]
    """
    if len(value) < HEADER.size or value[:4] != MAGIC:
        raise JournalFormatError(f"not a journal record: {value[:16]!r} ({len(value)} bytes)")
    if value[4] != VERSION:
        raise JournalFormatError(
            f"journal record of version {value[4]}, this code reads version {VERSION}: start a worker of that version "
            "and stop it cleanly (its last checkpoint covers the journal), then recreate the journal topic and start "
            "this one"
        )
    head = HEADER.unpack_from(value)
    _, _, kind, rows, step, offset, now_ns, rate, burst, d_rate, d_burst, tokens, dead, flags, z, least, window = head[
        :17
    ]
    count, flagged, raw_crc = head[17:]
    if kind not in set(Kind):
        raise JournalFormatError(f"step {step}: unknown kind {kind}")
    verdict, special, resumed = NO_VERDICTS, NONE, None
    if kind == Kind.RESUMED:
        resumed = Resumed(**orjson.loads(value[HEADER.size :]))
    if kind == Kind.RAW:
        after = HEADER.size + rows * SPECIAL.itemsize
        if len(value) < after:
            raise JournalFormatError(f"step {step}: {len(value)} bytes, its limits of {rows} devices end at {after}")
        special = np.frombuffer(value, SPECIAL, rows, HEADER.size)
        packed = np.frombuffer(value, np.uint8, offset=after)
        if len(packed) != (count + 1) // 2:
            raise JournalFormatError(f"step {step}: {len(packed)} bytes of verdicts for {count} frames")
        verdict = np.empty(2 * len(packed), np.uint8)
        verdict[::2] = packed & 15
        verdict[1::2] = packed >> 4
        verdict = verdict[:count]
    limits = Limits(rate, burst, d_rate, d_burst, dead, flags, z, least, window)
    step_record = StepRecord(step, Kind(kind), offset, now_ns, limits, tokens, count, verdict, flagged, special)
    step_record.raw_crc, step_record.resumed = raw_crc, resumed
    return step_record


def encode_owner(worker: str, epoch: int, at_ms: int, lineage: int = 0) -> bytes:
    """The record that a new owner of a lane writes first into journal and changelog (in place of a commit marker)."""
    return OWNER_MAGIC + orjson.dumps({"worker": worker, "epoch": epoch, "at_ms": at_ms, "lineage": lineage})


def owner_lineage(value: bytes) -> int:
    """The lineage that an owner record names; 0 = none."""
    return int(orjson.loads(value[len(OWNER_MAGIC) :]).get("lineage", 0))


def is_owner(value: bytes) -> bool:
    """Whether a journal value is an owner record."""
    return value[:4] == OWNER_MAGIC


def decode_record(value: bytes) -> dict[str, Any]:
    """A journal record for people (``klais tail``).

    Raises
    ------
    JournalFormatError
        As for :func:`decode_step`.
    """
    if is_owner(value):
        return {"kind": "owner", **orjson.loads(value[4:])}
    record = decode_step(value)
    labels, counts = np.unique(record.verdict, return_counts=True)
    from klais.core.wire.constants import Reason

    return {
        "kind": record.kind.name.lower(),
        "step": record.step,
        "raw_offset": record.raw_offset,
        "now_ns": record.now_ns,
        "count": record.count,
        "flagged": record.flagged,
        "tokens": record.tokens,
        "rate": record.limits.rate,
        "burst": record.limits.burst,
        **({"resumed": asdict(record.resumed)} if record.resumed else {}),
        "special": [[row["id"].decode(), float(row["rate"]), float(row["burst"])] for row in record.special],
        "verdicts": {Reason(int(k)).label: int(c) for k, c in zip(labels, counts, strict=True)},
    }
