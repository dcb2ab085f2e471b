"""Dead letters as frames: the contents of a record of ``klais_dead_letter``, and whether a lane would accept it now.

This module does not use Kafka. A dead letter of a malformed frame is that frame. A dead letter of a record on which a
lane failed (``poison``, ``corrupt_batch``) holds a whole frame batch, if the record was one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from klais.config.settings import EDGE_IDS
from klais.core.lane.columns import read_headers, read_payloads
from klais.core.wire.batch import LAST_TIME_NS, decode_batch, encode_batch
from klais.core.wire.constants import HEADER_SIZE, MAX_FRAME_SIZE, Reason
from klais.errors import BatchFormatError
from klais.kafka.reader import RawRecord

MAX_REDRIVES = (1 << 16) - EDGE_IDS
"""Limit of redrives of a dead letter: the number of its edge encodes the count."""
WHOLE_RECORDS = (Reason.POISON.label, Reason.CORRUPT_BATCH.label)
FORGED = (Reason.BAD_MAC.label, Reason.BAD_EPOCH.label)
_MAX_DIGITS = 20
_CHECKED = 4096  # frames per batch when only checking

Place = tuple[int, int, int]
"""Partition, offset, and index of the frame in the record."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One frame of a dead letter.

    ``place`` identifies it; ``times``: number of earlier redrives; ``verdict``: why a lane would not accept it now, the
    label of a :class:`Reason` or one of ``clipped``, ``foreign``, ``forged``, ``unchecked``, ``too_often``,
    ``redriven``; empty = it would.
    """

    place: Place
    frame: bytes
    reason: str
    ts_ms: int
    device_id: bytes = b""
    epoch: int = 0
    times: int = 0
    verdict: str = ""


def times_of(edge: int) -> int:
    """Number of redrives encoded in an edge id.

    Examples
    --------
    >>> times_of(1), times_of(65_520), times_of(65_535)
    (0, 1, 16)
    """
    return max(0, edge - EDGE_IDS + 1)


def edge_of(times: int) -> int:
    """The edge id of frames that are redriven for the ``times``-th time (from 1)."""
    return EDGE_IDS + times - 1


def dead_letters_of(partition: int, record: RawRecord, edge_checks: bool) -> list[DeadLetter]:
    """The frames of one record; hostile records give dead letters with a verdict, never an error.

    ``edge_checks``: whether edges check tags. If so, a frame that an edge refused before must not bypass the check.
    """
    headers = dict(record.headers)
    reason = _text(headers.get("reason"))
    stage, value = _text(headers.get("stage")), record.value or b""
    times = times_of(_number(headers.get("edge"), 0))
    ts_ms = _number(headers.get("ts"), -1)
    one = DeadLetter((partition, record.offset, 0), value, reason, ts_ms, times=times)
    if "bytes" in headers:
        return [replace(one, verdict="clipped")]
    if reason in FORGED:
        return [replace(one, verdict="forged")]
    if stage == "edge" and edge_checks:
        return [replace(one, verdict="unchecked")]
    if reason in WHOLE_RECORDS:
        return _of_batch(one)
    if len(value) > MAX_FRAME_SIZE or stage not in ("edge", "lane") or not 0 <= ts_ms < LAST_TIME_NS // 1_000_000:
        return [replace(one, verdict="foreign")]
    return [one]


def _of_batch(one: DeadLetter) -> list[DeadLetter]:
    """The frames of a record that a lane set aside completely."""
    try:
        batch = decode_batch(one.frame)
    except BatchFormatError:
        return [replace(one, verdict="foreign")]
    at_ns = np.full(batch.count, batch.received_at, np.int64)
    at_ns += batch.offsets if batch.offsets is not None else 0
    epochs = batch.epochs.tolist() if batch.epochs is not None else [0] * batch.count
    out = []
    for i, (ns, epoch) in enumerate(zip(at_ns.tolist(), epochs, strict=True)):
        place, times = (*one.place[:2], i), times_of(batch.edge)
        out.append(DeadLetter(place, batch.frame(i), one.reason, ns // 1_000_000, epoch=epoch, times=times))
    return out


def without_trailing_nul(dead_letter: DeadLetter) -> DeadLetter:
    """The dead letter without trailing NUL bytes in its payload, which senders in C leave there."""
    if not dead_letter.frame.endswith(b"\0") or len(dead_letter.frame) <= HEADER_SIZE:
        return dead_letter
    head, payload = dead_letter.frame[:HEADER_SIZE], dead_letter.frame[HEADER_SIZE:]
    return replace(dead_letter, frame=head + payload.rstrip(b"\0"))


def check(dead_letters: Sequence[DeadLetter], strict: bool, max_redrives: int) -> list[DeadLetter]:
    """The dead letters with their device and the present verdict of a lane (``strict``: KLAIS_JSON_STRICT)."""
    out: list[DeadLetter] = []
    for begin in range(0, len(dead_letters), _CHECKED):
        some = dead_letters[begin : begin + _CHECKED]
        usable = [dead_letter.frame if len(dead_letter.frame) <= MAX_FRAME_SIZE else b"" for dead_letter in some]
        columns = read_headers(decode_batch(encode_batch(usable, 1)))
        read_payloads(columns, columns.verdict, strict)
        for i, (dead_letter, found) in enumerate(zip(some, columns.verdict.tolist(), strict=True)):
            verdict = dead_letter.verdict or (Reason(found).label if found else "")
            verdict = verdict or ("too_often" if dead_letter.times >= max_redrives else "")
            out.append(replace(dead_letter, device_id=columns.device_id(i), verdict=verdict))
    return out


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")[:64]


def _number(value: bytes | None, otherwise: int) -> int:
    text = _text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else otherwise
