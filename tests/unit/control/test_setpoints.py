"""What control records mean, without Kafka: records go in through ``consume``."""

from typing import Any

import orjson
import pytest

from klais.cli.control import override_line
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.control.shown import control_in_force
from klais.kafka.stats import StatsFollower, clock_warning
from klais.system.waiting import poll_until
from klais.telemetry.stats import StatsPublisher, total
from klais.ui.feed import first_overrides


def make() -> ControlFollower:
    return ControlFollower(Settings())


def put(follower: ControlFollower, scope: str, **fields: object) -> None:
    follower.consume(scope, orjson.dumps({"scope": scope, **fields}))


def test_defaults_hold_until_something_is_set() -> None:
    follower = make()
    assert (follower.rate(10.0), follower.burst(20.0), follower.version, follower.blocked()) == (10.0, 20.0, 0, {})
    put(follower, "global", rate=500, author="rest", reason="POST /config", at=1, something_new={"x": 1})
    assert (follower.rate(10.0), follower.burst(20.0), follower.version) == (500.0, 20.0, 1)


def test_the_newest_record_of_a_scope_holds_and_no_value_clears() -> None:
    follower = make()
    put(follower, "global", rate=500, burst=9)
    put(follower, "edge/1", rate=7)
    put(follower, "global", rate=600)
    assert (follower.rate(1.0), follower.burst(2.0)) == (600.0, 2.0)
    assert follower.record("edge/1") == {"scope": "edge/1", "rate": 7}
    follower.consume("global", None)
    assert follower.rate(1.0) == 1.0
    assert follower.version == 4


def test_version_changes_only_with_a_change() -> None:
    follower = make()
    put(follower, "global", rate=500)
    put(follower, "global", rate=500)
    follower.consume("device/never-there", None)
    assert follower.version == 1


def test_blocks_come_and_go() -> None:
    follower = make()
    put(follower, "device/dev-1", block=True, author="me", reason="noisy")
    put(follower, "device/dev/2", block=True, until_ms=1_700_000_000_123)
    put(follower, "device/dev-3", block=False)
    put(follower, "device/äö", block=True)
    assert follower.blocked() == {b"dev-1": None, b"dev/2": 1_700_000_000_123_000_000, "äö".encode(): None}
    assert follower.device(b"dev-1") == follower.device("dev-1")
    put(follower, "device/dev-1", unblock=True)
    follower.consume("device/dev/2", None)
    assert follower.blocked() == {"äö".encode(): None}
    assert follower.device(b"dev/2") is None


@pytest.mark.parametrize("name", ["a-name-longer-than-16-bytes", "", "a\0b"])
def test_a_device_that_no_frame_can_name_is_refused(name: str) -> None:
    """Cut to the 16 bytes of a frame it would be another device. The kernel filter of each host refuses it, too."""
    follower = make()
    with pytest.raises(ValueError, match="names no device of a frame"):
        put(follower, f"device/{name}", block=True)
    assert follower.blocked() == {}
    follower.consume(f"device/{name}", None)


def test_a_field_that_is_null_is_absent() -> None:
    follower = make()
    put(follower, "device/a", block=True, at=None, author=None, until_ms=None)
    put(follower, "device/b", rate=5.0, burst=None, at=7)
    assert [row["scope"] for row in first_overrides(follower.overrides())] == ["device/b", "device/a"]
    assert follower.record("device/a") == {"scope": "device/a", "block": True}


def test_overrides_show_only_the_part_of_a_record_that_is_in_force() -> None:
    follower = make()
    put(follower, "device/a", block=True, until_ms=1, rate=5.0, author="me")
    put(follower, "device/b", block=True, rate=5.0, burst=6.0, limits_until_ms=1)
    put(follower, "device/c", block=True, until_ms=1, rate=5.0, limits_until_ms=1)
    a, b = follower.overrides()
    assert a == {"scope": "device/a", "rate": 5.0, "author": "me"}
    assert b == {"scope": "device/b", "block": True}
    assert "block" not in override_line(a) and override_line(b).endswith("until further notice")
    both = {"scope": "device/d", "block": True, "until_ms": 1_700_000_000_000, "rate": 5.0}
    assert override_line(both).partition("until ")[2].startswith("2023-11-1")
    assert override_line(both).endswith("limits until further notice")


def test_the_set_points_shown_are_those_of_the_controller() -> None:
    follower, settings = make(), Settings()
    put(follower, "override", mode="auto", setpoints={"lag": 50_000})
    shown = control_in_force(follower, settings, 10)["setpoints"]
    assert (shown["lag"], shown["cpu"]) == (50_000, settings.pid_cpu_setpoint)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"5",
        b'{"rate": 0}',
        b'{"rate": -1}',
        b'{"rate": "many"}',
        b'{"rate": true}',
        b'{"burst": 0}',
        b'{"until_ms": 1.5}',
        b'{"until_ms": -1}',
        b'{"mode": "auto", "rate": 1000, "hosts": {"h": {}}}',
        b'{"mode": "auto", "rate": 1000, "hosts": {"h": {"rate": null, "burst": 1}}}',
        b'{"mode": "auto", "rate": 1000, "hosts": {"h": {"rate": 5, "burst": "1"}}}',
        b"\xff\xfe",
    ],
)
def test_a_record_that_cannot_be_is_refused_and_changes_nothing(value: bytes) -> None:
    follower = make()
    put(follower, "global", rate=500)
    with pytest.raises(ValueError):
        follower.consume("global", value)
    assert (follower.rate(1.0), follower.version) == (500.0, 1)


class Recorder:
    """Stands in for the producer."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict]] = []

    def stats(self, key: str, record: dict) -> None:
        self.records.append((key, record))


def test_rates_are_the_growth_of_the_counters() -> None:
    counters = {"received": 100, "dropped": {"blocked": 5, "device_rate": 1}}
    sink: Any = Recorder()
    publisher = StatsPublisher(sink, "edge", "edge-1", lambda: (counters, {"queue_depth": 3}))
    first = publisher.record(1000.0)
    assert (first["v"], first["kind"], first["id"], first["rates"]) == (1, "edge", "edge-1", {})
    counters = {"received": 400, "dropped": {"blocked": 5, "device_rate": 7, "duplicate": 3}}
    second = publisher.record(1002.0)
    assert second["rates"] == {"received": 150.0, "dropped": 4.5}
    assert second["gauges"] == {"queue_depth": 3}
    assert second["counters"] is counters


def test_a_change_of_the_limits_makes_an_extra_record_without_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klais.telemetry.stats.PERIOD_S", 3600.0)  # no regular record is due in this test
    follower = ControlFollower(Settings())
    sink: Any = Recorder()
    publisher = StatsPublisher(sink, "edge", "edge-1", lambda: ({}, {}), version=lambda: follower.version)
    publisher.start()
    with follower.changes(publisher.wake):
        follower.consume("device/d", b'{"block": true}')
        assert poll_until(lambda: sink.records, 60, 0.01)
    publisher.stop()
    assert [record.get("extra") for _, record in sink.records] == [True, None]  # the last one is that of the stop


def test_only_records_that_change_a_limit_are_changes() -> None:
    follower, calls = ControlFollower(Settings()), []
    with follower.changes(lambda: calls.append(follower.version)):
        for record in (b'{"block": true}', b'{"block": true}', b'{"unblock": true}'):
            follower.consume("device/d", record)
        follower.reset()
        follower.consume("device/d", b'{"unblock": true}')
    follower.consume("device/e", b'{"block": true}')
    assert calls == [1, 2] and follower.version == 3


def test_total_of_a_counter() -> None:
    assert (total(5), total({"a": 1, "b": 2}), total({})) == (5, 3, 0)


def record_of(kind: str, **counters: int) -> bytes:
    return orjson.dumps({"v": 1, "kind": kind, "id": "x", "at_ms": 1, "counters": counters, "gauges": {}, "rates": {}})


def test_only_the_newest_of_each_sender_counts_and_only_while_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("klais.telemetry.stats.time.monotonic", lambda: now[0])
    follower = StatsFollower(Settings())
    follower.consume("w1", record_of("worker", received=1))
    follower.consume("w1", record_of("worker", received=2))
    follower.consume("e1", record_of("edge", received=9))
    now[0] = 1002.0
    follower.consume("w2", record_of("worker", received=5))
    assert {k: r["counters"]["received"] for k, r in follower.newest("worker").items()} == {"w1": 2, "w2": 5}
    now[0] = 1004.0
    assert set(follower.newest("worker")) == {"w2"}
    assert follower.newest("edge") == {}


def test_a_record_is_read_into_types_once_until_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("klais.telemetry.stats.time.monotonic", lambda: now[0])
    follower = StatsFollower(Settings())
    follower.consume("w1", record_of("worker", received=1))
    follower.consume("w2", record_of("worker", received=2))
    first = follower.view().workers
    assert all(follower.view().workers[name] is first[name] for name in ("w1", "w2"))
    follower.consume("w1", record_of("worker", received=3))
    after = follower.view().workers
    assert after["w1"].counters["received"] == 3 and after["w2"] is first["w2"]
    now[0] = 1004.0
    assert follower.view().workers == {}, "read, and stale"


@pytest.mark.parametrize("value", [None, b"{}", b"[]", b'{"v":2,"counters":{},"gauges":{},"rates":{}}', b'{"v":1}'])
def test_records_of_others_are_passed_over(value: bytes | None) -> None:
    with pytest.raises(ValueError):
        StatsFollower(Settings()).consume("x", value)


def test_clocks_of_senders_are_compared_with_the_brokers() -> None:
    follower = StatsFollower(Settings())
    body = orjson.loads(record_of("edge", received=1))
    at_ms = body["at_ms"] = 1_700_000_000_000
    follower.consume("edge-1", orjson.dumps(body), at_ms + 20)
    follower.consume("edge-2", orjson.dumps(body), at_ms - 7_200_000)
    follower.consume("edge-3", orjson.dumps(body))
    offsets = {name: row["clock_offset_s"] for name, row in follower.senders().items()}
    assert offsets == {"edge-1": -0.0, "edge-2": 7200.0, "edge-3": None}
    assert clock_warning(follower.clock_offset_s("edge-1")) is None
    assert "7200 s ahead of Kafka's" in str(clock_warning(follower.clock_offset_s("edge-2")))
    assert "3600 s behind" in str(clock_warning(-3600.0))
