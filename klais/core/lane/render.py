"""Records that are few by allowance, rendered one by one: anomalies and dead letters of a step."""

import base64
import math
from collections.abc import Iterator

import orjson

from klais.core.devices.layout import FEATURE_INTERVAL, FEATURE_SIZE
from klais.core.lane.journal import Kind
from klais.core.lane.step import Step
from klais.core.wire.batch import read_source
from klais.core.wire.constants import Reason
from klais.core.wire.json_locate import field_name
from klais.core.wire.json_strict import problem_of

MAX_ANOMALY_BYTES = 1024  # twice a name of 120 bytes, an id of 16, numbers; so KLAIS_ANOMALY_RATE bounds bytes too

_OF_THE_FRAME = {FEATURE_INTERVAL: "interval_s", FEATURE_SIZE: "payload_bytes"}

# A dead letter holds so much of a record that fits nowhere else: klais_raw takes larger ones when they are compressed.
CLIP_BYTES = (4 << 20) - 65_536
MAX_DETAIL_BYTES = 1000
Rendered = tuple[bytes | None, bytes, tuple[tuple[str, bytes], ...], int]  # key, value, headers, timestamp ms


def anomaly_records(step: Step) -> Iterator[Rendered]:
    """The records of ``klais_anomalies`` for a step's flags, each of at most ``MAX_ANOMALY_BYTES``."""
    if step.flags is None or step.columns is None:
        return
    columns, flags = step.columns, step.flags
    names: dict[int, str] = {}  # of this step, by path
    for flag, path, nth in zip(flags.found, flags.path.tolist(), flags.nth.tolist(), strict=True):
        i = int(flag["frame"])
        name = _OF_THE_FRAME.get(int(flag["feature"])) or names.get(path)
        if name is None:
            # From the payload itself, not from the names that the lane keeps: a replay must give the same bytes.
            found = field_name(columns.batch.buf, *columns.payload_place(i), nth, path)
            name = names[path] = f"#{path & 0xFFFFFFFF:08x}" if found is None else found
        value, expected, z = float(flag["value"]), float(flag["expected"]), float(flag["z"])
        device_id = columns.device_id(i)
        ts_ms = int(columns.ts_ms[i])
        body = {
            "device_id": device_id.decode(),
            "seq": int(columns.sequence[i]),
            "ts": ts_ms,
            "score": abs(z),
            "feature": name,
            "value": value if math.isfinite(value) else None,
            "expected": expected if math.isfinite(expected) else None,
            "z": z,
            "state": "anomalous",
            "explanation": f"{name} was {value:.6g}, expected about {expected:.6g} ({z:+.1f} standard deviations)",
        }
        yield device_id, orjson.dumps(body), (), ts_ms


def dead_letter_records(step: Step) -> Iterator[Rendered]:
    """The records of ``klais_dead_letter`` for a step's malformed frames, or for a record that is no frame batch."""
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
