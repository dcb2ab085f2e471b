"""The journal: one record for each step, with everything that its replay needs except the raw record (numpy only).

Little-endian header. Then for RAW steps the device overrides that the step used (OVERRIDE rows), the prefixes of ids
whose numbers it ignored (PREFIX rows), the anomaly flags (FLAG rows), JSON of the names that they need, and one verdict
byte per frame; for FORGET steps the forgotten ids, 16 bytes each; for RESUMED steps JSON. ``VERSION`` covers everything
that a replay recomputes instead of reading (row layout, sequence window, order of the queue): raise it when you change
one of those.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from klais.core.anomaly.record import FLAG, NO_FLAGS, Flags
from klais.core.dam.overrides import NO_OVERRIDES, NO_PREFIXES, OVERRIDE, PREFIX, Overrides, Prefixes
from klais.core.devices.layout import row_time_s
from klais.core.wire.constants import LAST_MALFORMED, Reason
from klais.errors import JournalFormatError, OtherVersion
from klais.system import shallow_json

MAGIC = b"KLJ1"
OWNER_MAGIC = b"KLO1"
OWNER_KEY = b"\x00owner"
MARKER_KEY = b"\x00marker"
VERSION = 7
# The offset of each field is a multiple of its size; the same holds for the data after the header.
HEADER = Struct("<4sBBHQqqddddddddIIIIIHHHHIQ")
GONE = "is gone"
LAST_STEP = 1 << 62  # a record with a later step was written by another program
FINGERPRINT_BYTES = 64  # of a raw record; the first 32 of a frame batch have edge, boot, number and receive time


class Kind(IntEnum):
    """The input of a step."""

    RAW = 1  # one frame batch
    RELEASE = 2  # the next frames of the queue
    REPEATED = 3  # a frame batch that the edge sent twice: ignored
    CORRUPT = 4  # a record that is not a frame batch: dead letter
    LOST = 5  # raw records that retention removed before the lane read them: counted and reported
    POISON = 6  # a record on which the lane failed repeatedly: dead letter
    RESUMED = 7  # the lane continues although data is missing: losses are counted, step and offset may jump
    FORGET = 8  # devices whose rows are freed


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force for one step, journalled with it (rates in frames/s, allowances in records).

    ``dead_letters`` and ``flags``: how many records of each this step may write; further ones are only counted.
    ``new_rate``: new devices/s per lane. ``sequence_window_s``: see :mod:`klais.core.devices.sequence`.
    """

    rate: float
    burst: float
    device_rate: float
    device_burst: float
    dead_letters: int
    flags: int
    new_rate: float
    sequence_window_s: float


NEEDS_RAW = (Kind.RAW, Kind.CORRUPT, Kind.POISON)  # a replay reads the raw record of these


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that Kafka keeps refusing: the ``nth`` of a step's records for ``output``, excluded from it.

    ``key`` and ``value``: the content of its dead letter as base64 (``value`` may be cut, ``size`` is the full size).
    """

    output: str
    step: int
    nth: int
    key: str
    value: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """Data that a recovery could not restore or a session could not write, in frames unless stated otherwise.

    ``output_lost``: decided to pass but never written, or written and lost by Kafka. ``queue_lost``: frames that were
    in the queue. ``doubled``: records of the clean topic that this lane decides and writes a second time. ``why`` ends
    with ``GONE`` if it applied steps without their frames. ``aside``: records that Kafka refuses; each becomes a dead
    letter of this step.

    A later recovery from the same checkpoint needs the following, so that it counts nothing a second time.
    ``unread``: the part of ``output_lost`` in steps applied without their frames, and ``counted``: the first and last
    number of each run of these steps. ``floor``: the end of the records
    still on the clean topic that the checkpoint covers, ``floor_epoch``: the producer epoch before it, both -1 = not
    checked.
    """

    output_lost: int = 0
    queue_lost: int = 0
    doubled: int = 0
    why: str = ""
    aside: tuple[RefusedRecord, ...] = ()
    unread: int = 0
    floor: int = -1
    floor_epoch: int = -1
    counted: tuple[tuple[int, int], ...] = ()

    @property
    def lost(self) -> int:
        """Total number of frames lost."""
        return self.output_lost + self.queue_lost


@dataclass(slots=True)
class StepRecord:
    """One journalled step.

    ``raw_offset``: the raw record taken (RAW, REPEATED, CORRUPT, POISON), the last one lost (LOST), the one before the
    next to take (RESUMED), -1 (RELEASE, FORGET). ``tokens``, ``new_devices``: the global bucket and that of new devices
    after the step. ``count``: frames (RAW, REPEATED, RELEASE, POISON), records (CORRUPT, LOST), devices (FORGET).
    ``flagged``: anomaly flags raised; ``flags``: FLAG rows of those written, ``flag_names``: names of fields that their
    frames lack, by path. ``overrides``: OVERRIDE rows of devices of this batch.
    ``uncounted``: PREFIX rows of ids whose sequence numbers are ignored. ``forgotten``: uint8 [k, 16] ids.
    ``raw_crc``: fingerprint of the raw record. ``batch``: edge, boot and number of the frame batch (RAW, REPEATED):
    with it a repeat is still recognised if Kafka loses the raw record.
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
    overrides: Overrides = field(default_factory=lambda: NO_OVERRIDES)
    uncounted: Prefixes = field(default_factory=lambda: NO_PREFIXES)
    forgotten: npt.NDArray[np.uint8] = field(default_factory=lambda: NO_IDS)
    new_devices: float = 0.0
    raw_crc: int = 0
    batch: tuple[int, int, int] = (0, 0, 0)
    resumed: Resumed | None = None
    flags: Flags = field(default_factory=lambda: NO_FLAGS)
    flag_names: Mapping[int, str] = field(default_factory=dict)

    @property
    def now_s(self) -> int:
        """The worker's clock in the form stored in rows."""
        return row_time_s(self.now_ns)


NO_VERDICTS: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
NO_IDS: npt.NDArray[np.uint8] = np.empty((0, 16), np.uint8)


def fingerprint(value: bytes) -> int:
    """uint32 that distinguishes raw records at the same offset, from the first bytes and the size.

    Examples
    --------
    >>> fingerprint(b"abc") != fingerprint(b"abcd")
    True
    """
    return zlib.crc32(value[:FINGERPRINT_BYTES], len(value))


def encode_step(record: StepRecord) -> bytes:
    """The journal record of a step."""
    at = record.limits
    names = orjson.dumps({str(key): name for key, name in record.flag_names.items()}) if record.flag_names else b""
    head = HEADER.pack(
        MAGIC,
        VERSION,
        record.kind,
        len(record.overrides),
        record.step,
        record.raw_offset,
        record.now_ns,
        at.rate,
        at.burst,
        at.device_rate,
        at.device_burst,
        record.tokens,
        at.new_rate,
        record.new_devices,
        at.sequence_window_s,
        at.dead_letters,
        at.flags,
        record.count,
        record.flagged,
        record.raw_crc,
        len(record.uncounted),
        len(record.flags),
        len(names),
        *record.batch,
    )
    if record.resumed is not None:
        fields = asdict(record.resumed)
        if not record.resumed.counted:
            del fields["counted"]  # earlier versions do not know it
        return head + orjson.dumps(fields)
    if record.kind == Kind.FORGET:
        return head + record.forgotten.tobytes()
    if record.kind != Kind.RAW:
        return head
    before = record.overrides.tobytes() + record.uncounted.tobytes() + record.flags.tobytes() + names
    return head + before + record.verdict.tobytes()


def decode_step(value: bytes) -> StepRecord:
    """Read one journal record.

    Raises
    ------
    JournalFormatError
        If another program wrote the record, or it is damaged.
    OtherVersion
        If another version of KLAIS wrote it.

    Examples
    --------
    >>> limits = Limits(1.0, 2.0, 3.0, 4.0, 5, 6, 10.0, 60.0)
    >>> record = StepRecord(1, Kind.RAW, 0, 10, limits, 1.5, 3, np.array([0, 2, 9], np.uint8))
    >>> decode_step(encode_step(record)).verdict.tolist()
    [0, 2, 9]
    """
    if len(value) < HEADER.size or value[:4] != MAGIC:
        raise JournalFormatError(f"not a journal record: {value[:16]!r} ({len(value)} bytes)")
    if value[4] != VERSION:
        raise OtherVersion(
            f"journal record of version {value[4]}, this code reads version {VERSION}: start a worker of that version "
            "and stop it with SIGTERM, so that its last checkpoint covers the journal, or start with a new "
            "KLAIS_TOPIC_PREFIX, or delete the topic of the journal and run `klais topics create`: lanes then decide "
            "the records of klais_raw again and count doubled records"
        )
    record, counts = _read_header(value)
    if record.step > LAST_STEP:
        raise JournalFormatError(f"step {record.step} is above the highest step number, {LAST_STEP}")
    if record.kind == Kind.RESUMED:
        record.resumed = _read_resumed(record.step, value[HEADER.size :])
    elif record.kind == Kind.FORGET:
        if len(value) != HEADER.size + 16 * record.count:
            found = len(value) - HEADER.size
            raise JournalFormatError(f"step {record.step}: {found} bytes of ids of {record.count} devices")
        record.forgotten = np.frombuffer(value, np.uint8, offset=HEADER.size).reshape(record.count, 16)
    elif record.kind == Kind.RAW:
        _read_frames(record, value, *counts)
    return record


def _read_header(value: bytes) -> tuple[StepRecord, tuple[int, int, int, int]]:
    """The record without the data after its header; number of OVERRIDE, PREFIX and FLAG rows, and bytes of names."""
    head = HEADER.unpack_from(value)
    _, _, kind, overrides, step, offset, now_ns, rate, burst, device_rate, device_burst, tokens = head[:12]
    new_rate, new_devices, window_s, dead, flags, count, flagged, raw_crc = head[12:20]
    if kind not in set(Kind):
        raise JournalFormatError(f"step {step}: unknown kind {kind}")
    rates = (rate, burst, device_rate, device_burst, new_rate, window_s)
    if not all(map(math.isfinite, (*rates, tokens, new_devices))) or min(rates) < 0:
        raise JournalFormatError(f"step {step}: its limits are not valid")
    if step >= 1 << 63 or now_ns < 0:
        raise JournalFormatError(f"step {step} at {now_ns} ns is out of range")
    limits = Limits(rate, burst, device_rate, device_burst, dead, flags, new_rate, window_s)
    record = StepRecord(step, Kind(kind), offset, now_ns, limits, tokens, count, NO_VERDICTS, flagged)
    record.new_devices, record.raw_crc, record.batch = new_devices, raw_crc, head[23:]
    return record, (overrides, *head[20:23])


def _read_resumed(step: int, text: bytes) -> Resumed:
    """The content of a RESUMED record after its header."""
    try:
        fields = shallow_json.loads(text)
        aside = tuple(RefusedRecord(**one) for one in fields.get("aside", ()))
        counted = tuple((int(first), int(last)) for first, last in fields.get("counted", ()))
        found = Resumed(**(fields | {"aside": aside, "counted": counted}))
        frames = (found.output_lost, found.queue_lost, found.doubled, found.unread)
        places = (found.floor, found.floor_epoch)
        texts = [found.why, *(part for one in aside for part in (one.output, one.key, one.value, one.why))]
        counts = [*frames, *(part for one in aside for part in (one.step, one.nth, one.size))]
        if not (
            all(isinstance(t, str) for t in texts)
            and all(isinstance(n, int) and 0 <= n < 1 << 63 for n in counts)
            and all(isinstance(n, int) and -1 <= n < 1 << 63 for n in places)
        ):
            raise ValueError("fields of another kind")
    except (AttributeError, TypeError, ValueError) as error:
        raise JournalFormatError(f"step {step}: its record of losses cannot be read ({error})") from error
    return found


def _read_names(step: int, text: bytes) -> dict[int, str]:
    """Names of fields that flags refer to and their frames lack."""
    try:
        return {int(key): str(name) for key, name in shallow_json.loads(text or b"{}").items()}
    except (AttributeError, ValueError) as error:
        raise JournalFormatError(f"step {step}: the names of its flags cannot be read ({error})") from error


def _read_frames(record: StepRecord, value: bytes, overrides: int, uncounted: int, flags: int, names: int) -> None:
    """The content of a RAW record after its header."""
    prefixes_at = HEADER.size + overrides * OVERRIDE.itemsize
    flags_at = prefixes_at + uncounted * PREFIX.itemsize
    names_at = flags_at + flags * FLAG.itemsize
    after = names_at + names
    if len(value) < after:
        text = f"its overrides of {overrides} devices, {uncounted} prefixes and {flags} flags end at {after}"
        raise JournalFormatError(f"step {record.step}: {len(value)} bytes, {text}")
    record.overrides = np.frombuffer(value, OVERRIDE, overrides, HEADER.size)
    record.uncounted = np.frombuffer(value, PREFIX, uncounted, prefixes_at)
    record.flags = np.frombuffer(value, FLAG, flags, flags_at).copy()  # kernels do not accept read-only rows
    record.flag_names = _read_names(record.step, value[names_at:after])
    record.verdict = np.frombuffer(value, np.uint8, offset=after)
    if len(record.verdict) != record.count:
        found = len(record.verdict)
        raise JournalFormatError(f"step {record.step}: {found} bytes of verdicts for {record.count} frames")
    if (record.verdict > LAST_MALFORMED).any():
        raise JournalFormatError(f"step {record.step}: unknown verdict {record.verdict.max()}")


def encode_owner(worker: str, epoch: int, at_ms: int, lineage: int = 0) -> bytes:
    """The first record of a new owner of a lane in journal and changelog (in place of a commit marker)."""
    return OWNER_MAGIC + orjson.dumps({"worker": worker, "epoch": epoch, "at_ms": at_ms, "lineage": lineage})


def owner_lineage(value: bytes) -> int:
    """The lineage in an owner record; 0 = none, or it cannot be read."""
    try:
        lineage = shallow_json.loads(value[len(OWNER_MAGIC) :]).get("lineage", 0)
    except (AttributeError, ValueError):
        return 0
    return lineage if isinstance(lineage, int) and 0 < lineage < 1 << 32 else 0


def is_owner(value: bytes) -> bool:
    """Whether a journal value is an owner record."""
    return value[:4] == OWNER_MAGIC


def decode_record(value: bytes) -> dict[str, Any]:
    """A journal record in readable form (``klais tail``).

    Raises
    ------
    JournalFormatError
        As for :func:`decode_step`.
    """
    if is_owner(value):
        owner = shallow_json.loads(value[len(OWNER_MAGIC) :])
        if not isinstance(owner, dict):
            raise JournalFormatError(f"an owner record without an owner: {value[:64]!r}")
        return {"kind": "owner", **owner}
    record = decode_step(value)
    labels, counts = np.unique(record.verdict, return_counts=True)
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
        "overrides": [[row["id"].decode(), float(row["rate"]), float(row["burst"])] for row in record.overrides],
        "uncounted": [prefix.decode(errors="replace") for prefix in record.uncounted.tolist()],
        "forgotten": [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in record.forgotten],
        "verdicts": {Reason(int(k)).label: int(c) for k, c in zip(labels, counts, strict=True)},
    }
