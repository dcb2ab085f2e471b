"""Decodes records of every KLAIS topic to dicts (for ``--json``) and text lines, without numba or a Kafka client.

A record that cannot be decoded is shown as hex with the error, because a diagnostic tool must not stop at one.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from klais.config.load import Settings
from klais.core.wire.constants import HEADER_SIZE, ID_OFFSET, MAGIC_BYTES, SEQUENCE_OFFSET
from klais.errors import BatchFormatError, JournalFormatError
from klais.kafka.topics import Topics
from klais.system import shallow_json
from klais.system.small_json import is_deep
from klais.text import escape

SHORT_NAMES = {
    "raw": "raw",
    "telemetry": "telemetry",
    "anomalies": "anomalies",
    "journal": "journal",
    "dead_letter": "dead_letter",
    "stats": "stats",
    "control": "control",
    "devices": "devices_changelog",
    "klais-devices-changelog": "devices_changelog",
}
_MARKER = b"KLM1"
_RESERVED = frozenset({"partition", "offset", "ts", "key", "error", "deleted"})  # not from the content of a record


@dataclass(frozen=True, slots=True)
class Record:
    """One record from the client; ``ts_ms`` is None if the broker has no timestamp for it."""

    partition: int
    offset: int
    ts_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def resolve(name: str, settings: Settings) -> tuple[str, str]:
    """Kind and full name of a topic given as short name (``raw``), without prefix, or in full.

    Examples
    --------
    >>> resolve("raw", Settings(topic_prefix="x-")), resolve("other", Settings())
    (('raw', 'x-klais_raw'), ('other', 'other'))
    """
    topics = Topics.of(settings)
    kinds = {getattr(topics, kind): kind for kind in SHORT_NAMES.values()}
    if name in SHORT_NAMES:
        kind = SHORT_NAMES[name]
        return kind, getattr(topics, kind)
    kinds = {spec.name: "other" for spec in topics.specs()} | kinds
    for full in (name, settings.topic_prefix + name):
        if full in kinds:
            return kinds[full], full
    return "other", name


def decode(kind: str, record: Record) -> dict[str, Any]:
    """The content of a record, or ``error`` and ``hex`` if it cannot be decoded."""
    head: dict[str, Any] = {"partition": record.partition, "offset": record.offset, "ts": record.ts_ms}
    head["key"] = text_or_hex(record.key)
    if record.value is None:
        return head | {"deleted": True}
    try:
        found = _DECODERS.get(kind, _other)(record)
        return head | {name: value for name, value in found.items() if name not in _RESERVED}
    except (BatchFormatError, JournalFormatError, ValueError, KeyError, RecursionError) as error:
        return head | {"error": str(error), "hex": record.value.hex()}


def about_device(kind: str, row: dict[str, Any], device: str) -> bool:
    """Whether a decoded record is about a device; other frames are removed from a frame batch."""
    if kind == "raw":
        row["frames"] = [frame for frame in row.get("frames", ()) if frame["device"] == device]
        return bool(row["frames"])
    if kind == "control":
        return bool(row["key"] == f"device/{device}")
    return bool(row["key"] == device or row.get("device") == device)


def lines(kind: str, row: dict[str, Any], frames: int) -> Iterator[str]:
    """A decoded record as lines for a terminal; at most ``frames`` frames of a batch (0 = all)."""
    place = f"{_time(row['ts'])} {row['partition']}@{row['offset']}"
    key = "" if row["key"] is None else f" {escape(str(row['key']))}"
    rest = {name: value for name, value in row.items() if name not in ("partition", "offset", "ts", "key")}
    if "error" in row:
        yield f"{place}{key} UNREADABLE: {escape(row['error'])}: {_clip(row['hex'])}"
    elif "deleted" in row:
        yield f"{place}{key} (deleted)"
    elif kind == "raw":
        yield from _batch_lines(place, row, frames)
    elif kind == "dead_letter":
        headers = " ".join(f"{name}={escape(str(value))}" for name, value in row["headers"].items())
        head = _clip(row["hex"][: 2 * HEADER_SIZE])
        yield f"{place}{key} {headers} {row['bytes']} bytes {head} {escape(row['text'])}"
    elif set(rest) == {"value"}:
        yield f"{place}{key} {_compact(row['value'])}"
    else:
        yield f"{place}{key} {_compact(rest)}"


def frame_parts(frame: bytes) -> dict[str, Any]:
    """Device, sequence and payload of a frame, each None if it cannot be read."""
    head = _header_parts(frame)
    return head | {"payload": json_or_text(frame if head["seq"] is None else frame[HEADER_SIZE:])}


def _header_parts(frame: bytes) -> dict[str, Any]:
    if len(frame) < HEADER_SIZE or frame[:2] != MAGIC_BYTES:
        return {"device": None, "seq": None}
    device = text_or_hex(frame[ID_OFFSET:SEQUENCE_OFFSET].rstrip(b"\0"))
    return {"device": device, "seq": int.from_bytes(frame[SEQUENCE_OFFSET:HEADER_SIZE], "big")}


def json_or_text(data: bytes) -> Any:
    """The parsed value if ``data`` is strict JSON, else its text.

    Examples
    --------
    >>> json_or_text(b'{"t":1}'), json_or_text(b"NaN"), json_or_text(bytes([255]))
    ({'t': 1}, 'NaN', '\\\\xff')
    """
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(data.decode(), parse_constant=_refuse)
        if not is_deep(found):
            return found
    return data.decode("utf-8", "backslashreplace")


def text_or_hex(data: bytes | None) -> str | None:
    """``data`` as text if it is UTF-8 (not escaped: the print function does that), else its hex digits after ``0x``."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "0x" + data.hex()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _value(record: Record) -> bytes:
    assert record.value is not None
    return record.value


def _raw(record: Record) -> dict[str, Any]:
    from klais.core.wire.batch import decode_batch, read_source

    batch = decode_batch(_value(record))
    frames = []
    for i in range(batch.count):
        part = frame_parts(batch.frame(i))
        source = read_source(batch, i)
        frames.append(part if source is None else part | {"source": source})
    return {
        "edge": batch.edge,
        "boot": batch.boot,
        "number": batch.number,
        "received_at_ns": batch.received_at,
        "count": batch.count,
        "bytes": len(_value(record)),
        "frames": frames,
    }


def _json(record: Record) -> dict[str, Any]:
    return {"value": json_or_text(_value(record))}


def _dead_letter(record: Record) -> dict[str, Any]:
    value = _value(record)
    headers = {name: text_or_hex(text) for name, text in record.headers}
    shown = value[HEADER_SIZE:] if value[:2] == MAGIC_BYTES else value
    text = shown[:200].decode("utf-8", "backslashreplace")
    return {"headers": headers, "bytes": len(value), "hex": value.hex(), "text": text, **_header_parts(value)}


def _journal(record: Record) -> dict[str, Any]:
    from klais.core.lane.journal import decode_record

    return decode_record(_value(record))


def _devices(record: Record) -> dict[str, Any]:
    value = _value(record)
    if value[:4] == _MARKER:
        size = int.from_bytes(
            value[4:8], "little"
        )  # followed by those of two other parts: see klais.core.lane.checkpoint
        return {"marker": shallow_json.loads(value[16 : 16 + size])}
    if value[:4] == b"KLO1":
        return {"owner": shallow_json.loads(value[4:])}
    from klais.core.devices.layout import read_row

    row = read_row(value)
    fields = {name: row[name].tolist() for name in row.dtype.names if name not in ("id", "id_size", "version")}
    return {"device": text_or_hex(row["id"].tobytes()[: int(row["id_size"])]), **fields}


def _other(record: Record) -> dict[str, Any]:
    headers = {name: text_or_hex(text) for name, text in record.headers}
    return ({"headers": headers} if headers else {}) | {"value": json_or_text(_value(record))}


_DECODERS: dict[str, Callable[[Record], dict[str, Any]]] = {
    "raw": _raw,
    "telemetry": _json,
    "anomalies": _json,
    "stats": _json,
    "control": _json,
    "journal": _journal,
    "dead_letter": _dead_letter,
    "devices_changelog": _devices,
}


def _batch_lines(place: str, row: dict[str, Any], limit: int) -> Iterator[str]:
    frames = row["frames"]
    name = f"edge={row['edge']} boot={row['boot']} number={row['number']}"
    yield f"{place} batch {name} frames={row['count']} bytes={row['bytes']}"
    shown = frames if limit == 0 else frames[:limit]
    for frame in shown:
        device = "?" if frame["device"] is None else escape(frame["device"])
        source = f" from {frame['source']}" if "source" in frame else ""
        yield f"    {device} seq={frame['seq']}{source} {_compact(frame['payload'])}"
    if len(shown) < len(frames):
        yield f"    ... {len(frames) - len(shown)} more (--frames 0 shows all)"


def _time(ts_ms: int | None) -> str:
    """ISO time in UTC; a producer may write any number as a record's timestamp."""
    if ts_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z"
    except (ValueError, OverflowError, OSError):
        return f"ts={ts_ms}"


def _compact(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return escape(text)


def _clip(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
