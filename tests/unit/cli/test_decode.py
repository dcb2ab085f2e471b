"""What `klais tail` makes of a record: every kind of ours, and anything else without stopping."""

import json
from typing import Any

import numpy as np
import pytest

from klais.cli.decode import Record, about_device, decode, lines, resolve
from klais.config.load import Settings
from klais.core.devices.layout import ROW, ROW_VERSION
from klais.core.lane.checkpoint import encode_marker, snapshot
from klais.core.lane.journal import OWNER_MAGIC, Kind, Limits, StepRecord, encode_owner, encode_step
from klais.core.lane.state import LaneState
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame

KINDS = ("raw", "telemetry", "anomalies", "journal", "dead_letter", "stats", "control", "devices_changelog", "other")
NASTY = [
    b"",
    b"\0",
    b"KFB1",
    b"KFB1" + bytes(28),
    b"KLJ1" + b"\1" * 200,
    b"KLM1\xff\xff\xff\xff{",
    b"KLO1{",
    b"\xff" * 600,
]


def record(value: bytes | None, key: bytes | None = None, headers: tuple[tuple[str, bytes | None], ...] = ()) -> Record:
    return Record(2, 17, 1_700_000_000_123, key, value, headers)


def text(kind: str, row: dict[str, Any], frames: int = 10) -> list[str]:
    return list(lines(kind, row, frames))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("telemetry", ("telemetry", "p-iot_telemetry")),
        ("iot_telemetry", ("telemetry", "p-iot_telemetry")),
        ("p-iot_telemetry", ("telemetry", "p-iot_telemetry")),
        ("klais_dead_letter", ("dead_letter", "p-klais_dead_letter")),
        ("devices", ("devices_changelog", "p-klais-devices-changelog")),
        ("klais_audit", ("other", "p-klais_audit")),
        ("p-klais_audit", ("other", "p-klais_audit")),
        ("klais-profiles-changelog", ("other", "p-klais-profiles-changelog")),
        ("someone.else", ("other", "someone.else")),
    ],
)
def test_names(name: str, found: tuple[str, str]) -> None:
    assert resolve(name, Settings(topic_prefix="p-")) == found


def test_telemetry_line() -> None:
    row = decode("telemetry", record(b'{"device_id":"dev-1","seq":1,"ts":2,"data":{"t":1.5}}', b"dev-1"))
    assert row["value"]["data"] == {"t": 1.5}
    assert text("telemetry", row) == [
        '2023-11-14T22:13:20.123Z 2@17 dev-1 {"device_id":"dev-1","seq":1,"ts":2,"data":{"t":1.5}}'
    ]


def test_batch_shows_header_and_frames() -> None:
    frames = [encode_frame(f"dev-{i}", i, b'{"t":%d}' % i) for i in range(4)] + [b"\xaaU short"]
    source = np.frombuffer(b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 1]) + b"\x1f\x90", np.uint8)
    value = encode_batch(frames, 5, edge=3, boot=7, number=9, sources=np.tile(source, (5, 1)))
    row = decode("raw", record(value))
    assert (row["edge"], row["boot"], row["number"], row["count"], row["received_at_ns"]) == (3, 7, 9, 5, 5)
    assert row["frames"][1] == {"device": "dev-1", "seq": 1, "payload": {"t": 1}, "source": "127.0.0.1:8080"}
    assert row["frames"][4]["device"] is None
    shown = text("raw", row, frames=2)
    assert "batch edge=3 boot=7 number=9 frames=5" in shown[0]
    assert shown[2] == '    dev-1 seq=1 from 127.0.0.1:8080 {"t":1}'
    assert shown[3].strip().startswith("... 3 more")
    assert len(text("raw", row, frames=0)) == 6
    assert about_device("raw", row, "dev-2") and [frame["seq"] for frame in row["frames"]] == [2]
    assert not about_device("raw", row, "dev-1")


def test_dead_letter() -> None:
    frame = encode_frame("dev-1", 5, b'{"t":\x1b[2J')
    headers = (("reason", b"bad_json"), ("edge", b"1"), ("stage", b"lane"), ("ts", b"1"))
    row = decode("dead_letter", record(frame, b"dev-1", headers))
    assert row["headers"]["reason"] == "bad_json" and bytes.fromhex(row["hex"]) == frame and row["seq"] == 5
    (line,) = text("dead_letter", row)
    assert "reason=bad_json edge=1 stage=lane" in line and "\\x1b[2J" in line and frame[:22].hex() in line


def test_journal() -> None:
    limits = Limits(1.0, 2.0, 3.0, 4.0, 5, 6, 10.0, 60.0)
    step = encode_step(StepRecord(4, Kind.RAW, 11, 10, limits, 1.5, 3, np.array([0, 0, 4], np.uint8)))
    row = decode("journal", record(step))
    assert (row["step"], row["raw_offset"], row["verdicts"]) == (4, 11, {"passed": 2, "device_rate": 1})
    assert decode("journal", record(encode_owner("w", 3, 5)))["worker"] == "w"


def test_changelog_rows_and_marker() -> None:
    rows = np.zeros(1, ROW)
    rows["id"].view(np.uint8)[0, :5] = np.frombuffer(b"dev-1", np.uint8)
    rows["id_size"], rows["version"], rows["received"] = 5, ROW_VERSION, 12
    row = decode("devices_changelog", record(rows.tobytes(), b"dev-1"))
    assert row["device"] == "dev-1" and row["received"] == 12
    assert json.loads(json.dumps(row))["received"] == 12
    marker = decode("devices_changelog", record(encode_marker(snapshot(LaneState()), 7, {}, 4), b"\0marker"))
    assert marker["marker"]["journal_offset"] == 7 and marker["key"] == "\0marker"
    assert decode("devices_changelog", record(None, b"dev-1")) | {"ts": 0} == {
        "partition": 2,
        "offset": 17,
        "ts": 0,
        "key": "dev-1",
        "deleted": True,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [*NASTY, None])
def test_nothing_stops_it_and_nothing_reaches_the_terminal_raw(kind: str, value: bytes | None) -> None:
    row = decode(kind, record(value, b"\x1b\xff", (("h", None), ("r", b"\n\xff"))))
    json.dumps(row)
    for line in text(kind, row):
        assert line.isprintable()
    about_device(kind, row, "dev-1")


@pytest.mark.parametrize("kind", ["telemetry", "other", "stats"])
def test_deep_json_and_nan_are_shown_as_text(kind: str) -> None:
    for value in (b"[" * 100_000, b'{"a":NaN}'):
        assert isinstance(decode(kind, record(value))["value"], str)


def test_a_time_beyond_the_calendar_is_shown_as_a_number() -> None:
    far = Record(0, 0, 1 << 62, None, b"{}")
    assert text("other", decode("other", far)) == [f"ts={1 << 62} 0@0 {{}}"]


def test_a_foreign_owner_record_takes_no_place_of_the_records_own_fields() -> None:
    row = decode("journal", record(OWNER_MAGIC + b'{"ts":"x","error":"y","deleted":1,"partition":"z","worker":"w"}'))
    assert (row["partition"], row["ts"], row["worker"]) == (2, 1_700_000_000_123, "w")
    assert text("journal", row) == ['2023-11-14T22:13:20.123Z 2@17 {"kind":"owner","worker":"w"}']
