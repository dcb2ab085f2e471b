"""The schemas in ``docs/``: those of the code, real records fit them, and broken ones do not."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from pydantic import BaseModel

from klais.config.load import Settings
from klais.control.incidents import ack_scope, mute_scope
from klais.control.overrides import apply
from klais.core.anomaly.record import Cause
from klais.core.incidents.incident import shown
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.constants import Reason, encode_frame
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.stats import ControlProducer
from klais.kafka.topics import Topics as Names
from klais.schemas import anomalies, control
from klais.schemas.files import FILES, text_of
from klais.schemas.telemetry import DeadLetterHeaders
from tests.hostile.test_fuzz_control import good_records
from tests.support.incidents import follower_with, incident
from tests.support.lane import T0_NS, batch, bounds, frames, limits, scored
from tests.support.schemas import DOCS, problems
from tests.unit.edge.test_spine import build
from tests.unit.kafka.test_record_batch import Frames, parse

S = 1_000_000_000


def unknown(model: type[BaseModel], record: dict[str, Any]) -> set[str]:
    return set(record) - set(model.model_fields)


def test_the_files_are_those_of_the_code() -> None:
    assert {path.name for path in DOCS.glob("*.schema.json")} == set(FILES)
    for name in FILES:
        assert (DOCS / name).read_text() == text_of(name), f"{name}: run `python -m klais.schemas docs`"


def flags_of() -> Iterator[dict[str, Any]]:
    """Flags of a field, of the interval and of the size, with and without firmware."""
    state, rng = scored(), np.random.default_rng(1)
    for n in range(120):
        at_ns = T0_NS + n * S + (3600 * S if n == 110 else 0)
        payload = b'{"t":%.2f,"fw":"2.1"}' % (99.0 if n == 100 else 20 + 0.3 * rng.normal())
        payload = b'{"t":%.2f,"x":"%s"}' % (20.1, b"y" * 900) if n == 105 else payload
        step = take_raw(state, n, batch(frames(("a", n, payload)), n, at_ns), limits(), bounds(), at_ns)
        yield from (orjson.loads(value) for _, value, _, _ in anomaly_records(step))


def test_flags_fit() -> None:
    flags = list(flags_of())
    assert {flag["feature"] for flag in flags} == {"t", "interval_s", "payload_bytes"}
    assert any("firmware" in flag for flag in flags) and not all("firmware" in flag for flag in flags)
    for flag in flags:
        assert problems("klais_anomalies", flag) == [] and unknown(anomalies.Flag, flag) == set()
        assert problems("klais_anomalies", flag | {"new": 1}) == [], "readers ignore unknown fields"
        for wrong in ({"kind": "other"}, {"cause": "weather"}, {"seq": -1}, {"ts": "now"}, {"device_id": ""}):
            assert problems("klais_anomalies", flag | wrong)
        assert problems("klais_anomalies", {name: value for name, value in flag.items() if name != "explanation"})
    for cause in Cause:
        assert bool(problems("klais_anomalies", flags[0] | {"cause": cause.name.lower()})) == (cause == Cause.NONE)


@pytest.mark.parametrize("one", [incident(1), incident(2, closed=True), incident(3, device="dev-7")])
def test_incidents_fit(one: Any) -> None:
    record = json.loads(orjson.dumps({"kind": "incident", "ts": 1_700_000_000_000, **shown(one)}))
    assert record["revision"] == one.revision
    record["revision"] = max(1, one.revision)  # an incident has revision 1 when it is announced
    assert problems("klais_anomalies", record) == []
    assert unknown(anomalies.Incident, record) == unknown(anomalies.FlagOfIncident, record["worst"]) == set()
    for wrong in ({"id": "x"}, {"state": "new"}, {"type": "herd"}, {"devices": -1}, {"first": {}}):
        assert problems("klais_anomalies", record | wrong)


SCOPES: dict[str, type[BaseModel]] = {
    "global": control.Decision, "override": control.Override, "device": control.DeviceRecord,
    "source": control.SourceRecord, "incident": control.IncidentState, "incidents": control.Grouping,
    "ack": control.AckRecord, "mute": control.MuteRecord,
}  # fmt: skip


def test_records_of_every_scope_fit() -> None:
    records = good_records()
    assert {scope.partition("/")[0] for scope in records} == set(SCOPES) | {"edge"}
    for scope, record in records.items():
        if scope.startswith("edge/"):
            continue  # kept, not interpreted
        stored = json.loads(orjson.dumps(record | {"scope": scope}))
        assert problems("klais_control", stored) == [], scope
        model = SCOPES[scope.partition("/")[0]]
        if model is not control.Grouping:  # its other fields are the leader's own
            assert unknown(model, stored) == set(), scope
        assert problems("klais_control", stored | {"new": 1}) == []
        assert problems("klais_control", stored | {"scope": "other"})
        assert problems("klais_control", stored | {"at": "now"})
    for scope, wrong in (
        ("global", {"rate": 0}), ("global", {"mode": "fast"}), ("override", {"rate": -1}), ("override", {"gains": 5}),
        ("device/a", {"block": 1}), ("device/a", {"until_ms": -1}), ("device/a", {"scope": "device/" + 17 * "x"}),
        ("source/192.0.2.0/24", {"block": "yes"}), ("source/192.0.2.0/24", {"scope": "source/192.0.2.0"}),
        ("mute/device/dev-1", {"scope": "mute/all/x"}),
    ):  # fmt: skip
        assert problems("klais_control", records[scope] | {"scope": scope} | wrong), (scope, wrong)


class Topics:
    """A producer that keeps what is written, and acknowledges it."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, dict[str, Any]]] = []

    def offset(self) -> None:
        return None

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, on_delivery: Any) -> None:
        self.written.append((topic, key.decode(), json.loads(value)))
        on_delivery(None, self)

    def poll(self, _timeout_s: float) -> None:
        pass


def test_changes_of_operators_fit_in_both_topics() -> None:
    one, topics = incident(1), Topics()
    follower = follower_with(one)
    producer = ControlProducer.__new__(ControlProducer)
    producer._producer, producer._topics = topics, Names.of(Settings())  # type: ignore[assignment]
    block = {"block": True, "unblock": None, "until_ms": 1_800_000_000_000}
    for scope, changes in (
        ("device/dev-1", block),
        ("device/dev-1", {"rate": 5.0, "burst": 20.0, "limits_until_ms": None}),
        ("device/dev-1", {"forget_ms": 1_700_000_000_000}),
        ("source/192.0.2.0/24", block),
        ("source/2001:db8::/32", {"block": None, "unblock": True, "until_ms": None}),
        ("override", {"mode": "manual", "rate": 5000.0, "until_ms": None}),
        ("override", {"gains": {"kp": 0.4}, "setpoints": {"lag": 70000.0}}),
        (ack_scope(one.id), {"ack": True, "until_ms": None}),
        (mute_scope("feature", "t"), {"mute": True, "until_ms": None}),
    ):
        apply(follower, producer, scope, changes, "ada", "why", "192.0.2.9")
    assert {topic for topic, *_ in topics.written} == {"klais_control", "klais_audit"} and len(topics.written) == 18
    for topic, scope, record in topics.written:
        assert problems(topic, record) == [] and record["scope"] == scope
        if topic == "klais_audit":
            assert unknown(control.AuditRecord, record) == set()
            assert problems(topic, record | {"author": None}) and problems(topic, record | {"before": None})


def test_dead_letters_of_lanes_and_edges_have_these_headers() -> None:
    bad = [b"", b"\x55\xaa" + bytes(40), encode_frame("a", 1, b"{"), encode_frame("a", 2, b"[1]")]
    step = take_raw(LaneState(), 0, batch(bad), limits(), bounds(), T0_NS)
    found = [dict(headers) for _, _, headers, _ in dead_letter_records(step)]
    found += [dict(h) for _, _, h, _ in dead_letter_records(take_raw(LaneState(), 0, b"x", limits(), bounds(), T0_NS))]
    spine, sink = build([[b"", b"xx" * 30, b"z" * 9000]], frame_max=5000)
    spine.round(spine.source.fill(0), 0)
    found += [headers for _, _, headers, _ in sink.letters]
    texts = [{name: value.decode() for name, value in headers.items()} for headers in found]
    assert {text["reason"] for text in texts} >= {"too_short", "bad_magic", "bad_json", "not_object", "corrupt_batch"}
    for text in texts:
        assert problems("klais_dead_letter.headers", text) == [] and unknown(DeadLetterHeaders, text) == set()
        for wrong in ({"reason": Reason.PASSED.label}, {"stage": "sink"}, {"ts": "now"}):
            assert problems("klais_dead_letter.headers", text | wrong)


def test_clean_records_fit() -> None:
    writer = RecordBatchWriter()
    assert Frames([b"dev-1", "äö".encode()], [b'{"t":1}', b"{}"], [7, 4_294_967_295]).into(writer) == 2
    for record in parse(writer):
        clean = json.loads(record.value)
        assert problems("iot_telemetry", clean) == []
        for wrong in ({"seq": 1 << 32}, {"data": [1]}, {"device_id": "x" * 17}):
            assert problems("iot_telemetry", clean | wrong)
