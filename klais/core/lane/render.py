"""Rate-limited records, rendered one by one: anomalies and dead letters of a step."""

import base64
import math
from collections.abc import Iterator

import orjson

from klais.core.anomaly.explain import FlagFacts, explain
from klais.core.anomaly.record import OF_ABSENT, OF_INTERVAL, OF_SIZE, OF_TYPE
from klais.core.lane.journal import Kind
from klais.core.lane.step import Step
from klais.core.wire.batch import read_source
from klais.core.wire.constants import Reason
from klais.core.wire.json_locate import field_name
from klais.core.wire.json_strict import problem_of

MAX_ANOMALY_BYTES = (
    1024  # twice a name of 120 bytes, an id of 16, numbers, a sentence; so KLAIS_ANOMALY_RATE bounds bytes too
)

FIRMWARE_FIELDS = ("firmware", "fw", "firmware_version", "fw_version")
MAX_FIRMWARE_BYTES = 32
_FIRMWARE_BYTES = (b"firmware", b"fw")
_OF_THE_FRAME = {OF_INTERVAL: "interval_s", OF_SIZE: "payload_bytes"}

# Largest part of a refused record in a dead letter: klais_raw accepts larger records when they are compressed.
CLIP_BYTES = (4 << 20) - 65_536
MAX_DETAIL_BYTES = 1000
Rendered = tuple[bytes | None, bytes, tuple[tuple[str, bytes], ...], int]  # key, value, headers, timestamp ms


def anomaly_records(step: Step) -> Iterator[Rendered]:
    """The records of ``klais_anomalies`` for a step's flags, each of at most ``MAX_ANOMALY_BYTES``."""
    if step.flags is None or step.columns is None:
        return
    columns, flags = step.columns, step.flags
    names: dict[int, str] = {}  # of this step, by path
    for flag, path in zip(flags.found, flags.path.tolist(), strict=True):
        i, nth = int(flag["frame"]), int(flag["nth"])
        found = "missing"
        name = _OF_THE_FRAME.get(nth) or names.get(path)
        if nth == OF_ABSENT:
            name = flags.names.get(path, f"#{path & 0xFFFFFFFF:08x}")
            found = describe_value(columns.payload(i), name)
        elif nth == OF_TYPE:
            name = "type"
        elif name is None:
            # From the payload, not from the lane's names: a replay must produce the same bytes.
            read = field_name(columns.batch.buf, *columns.payload_place(i), nth, path)
            name = names[path] = f"#{path & 0xFFFFFFFF:08x}" if read is None else read
        facts = FlagFacts.of_flag(flag, name, found)
        if nth == OF_TYPE:
            facts = FlagFacts.of_type(flag, int(columns.time_ns[i]), flags.names)
        payload = columns.payload(i)
        device_id, ts_ms = columns.device_id(i), int(columns.ts_ms[i])
        body = {
            "kind": "flag",
            "device_id": device_id.decode(),
            "seq": int(columns.sequence[i]),
            "ts": ts_ms,
            "score": round(facts.score, 3),
            "feature": facts.name,
            "cause": facts.kind.name.lower(),
            "value": _number(facts.value) if nth not in (OF_ABSENT, OF_TYPE) else None,
            "expected": _number(facts.expected) if nth not in (OF_ABSENT, OF_TYPE) else None,
            "scale": _number(facts.scale),
            "before": facts.before,
            "state": "anomalous",
            "edge": columns.batch.edge,
            "explanation": explain(facts),
        }
        if nth == OF_TYPE:
            body |= {"type": facts.found or None, "type_before": facts.usual or None}
        value = orjson.dumps(body)
        version = firmware_of(payload)
        if version is not None and len(value) + 2 * MAX_FIRMWARE_BYTES + 20 <= MAX_ANOMALY_BYTES:
            value = orjson.dumps(body | {"firmware": version})
        yield device_id, value, (), ts_ms


def firmware_of(payload: bytes) -> str | None:
    """The firmware version in a payload's first level; None if there is none of 1 to 32 bytes.

    Examples
    --------
    >>> firmware_of(b'{"t":21.5,"fw":"2.1.0"}'), firmware_of(b'{"t":21.5}'), firmware_of(b'{"firmware":7}')
    ('2.1.0', None, '7')
    """
    if not any(key in payload for key in _FIRMWARE_BYTES):
        return None
    try:
        found = orjson.loads(payload)
    except ValueError:
        return None
    values = [found.get(key) for key in FIRMWARE_FIELDS] if isinstance(found, dict) else []
    for value in values:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = str(value)
            if 0 < len(text.encode(errors="replace")) <= MAX_FIRMWARE_BYTES and text.isprintable():
                return text
    return None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe_value(payload: bytes, name: str) -> str:
    """Describe the value that a payload has in place of the number ``name`` (keys joined by dots).

    Examples
    --------
    >>> describe_value(b'{"t":"21.5","pos":{"x":null}}', "t"), describe_value(b'{"pos":{"x":null}}', "pos.x")
    ('text', 'null')
    """
    try:
        at = orjson.loads(payload)
    except ValueError:
        return "missing"
    for key in name.split("."):
        if not isinstance(at, dict) or key not in at:
            return "missing"
        at = at[key]
    kinds = {bool: "a boolean", str: "text", dict: "an object", list: "an array"}
    return "null" if at is None else kinds.get(type(at), "a number beyond double")


def has_dead_letters(step: Step) -> bool:
    """Whether :func:`dead_letter_records` yields any."""
    asides = step.record.resumed is not None and bool(step.record.resumed.aside)
    return asides or step.corrupt is not None or (step.dead is not None and len(step.dead) > 0)


def dead_letter_records(step: Step) -> Iterator[Rendered]:
    """The records of ``klais_dead_letter`` for a step's malformed frames, or for a record that is not a frame batch."""
    now_ms = step.record.now_ns // 1_000_000
    if step.corrupt is not None:
        reason = Reason.POISON if step.record.kind == Kind.POISON else Reason.CORRUPT_BATCH
        headers = (*_headers(reason, None, now_ms), ("detail", step.corrupt_why.encode()[:MAX_DETAIL_BYTES]))
        if len(step.corrupt) > CLIP_BYTES:
            headers += (("bytes", str(len(step.corrupt)).encode()),)
        yield None, step.corrupt[:CLIP_BYTES], headers, now_ms
    for aside in step.record.resumed.aside if step.record.resumed else ():
        headers = (*_headers(Reason.POISON, None, now_ms), ("detail", aside.why.encode()[:MAX_DETAIL_BYTES]))
        value = base64.b64decode(aside.value)
        if len(value) < aside.size:
            headers += (("bytes", str(aside.size).encode()),)
        yield base64.b64decode(aside.key) or None, value, headers, now_ms
    if step.columns is None or step.dead is None:
        return
    columns = step.columns
    for i in step.dead.tolist():
        headers = _headers(Reason(int(step.record.verdict[i])), columns.batch.edge, int(columns.ts_ms[i]))
        source = read_source(columns.batch, i)
        if source is not None:
            headers += (("source", source.encode()),)
        if step.record.verdict[i] == Reason.NOT_STRICT:
            headers += (("detail", problem_of(columns.payload(i)).label.encode()),)
        yield columns.device_id(i) or None, columns.batch.frame(i), headers, int(columns.ts_ms[i])


def _headers(reason: Reason, edge: int | None, ts_ms: int) -> tuple[tuple[str, bytes], ...]:
    headers: tuple[tuple[str, bytes], ...] = (
        ("reason", reason.label.encode()),
        ("ts", str(ts_ms).encode()),
        ("stage", b"lane"),
    )
    return headers if edge is None else (*headers, ("edge", str(edge).encode()))
