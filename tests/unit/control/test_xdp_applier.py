"""What the applier writes into a host's maps, looked at without a kernel: maps that note what they are told."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from klais.config.host import host_of
from klais.config.load import Settings
from klais.control import xdp_applier
from klais.control.filter_figures import MAX_REPORTED
from klais.control.setpoints import ControlFollower
from klais.control.source_applier import TTL_S
from klais.control.xdp_applier import BLOCKS_S, OPEN_S, RENEW_S, Applier
from klais.errors import KlaisError, RulesFull
from klais.system.prefix import Network
from klais.telemetry.schema import Filter

SETTINGS = Settings(xdp_pin_dir=Path("/sys/fs/bpf/klais-none"), control_auto=True)
HOST = host_of(SETTINGS)


class Sources:
    """The list of allowed sources: empty."""

    def allowed(self) -> list[Network]:
        return []


class Noted:
    """Maps that note each call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.blocks: dict[bytes, float] = {}
        self.dropped: dict[bytes, int] = {}
        self.rules: set[bytes] = set()
        self.limited: list[str] = []  # devices with a limit that an earlier process wrote
        self.replaced, self.room = False, 1 << 16
        self.attached: tuple[str, ...] | None = ("eth0",)
        self.source_blocks, self.sources = SimpleNamespace(all=list, block=self._block, sweep=int), Sources()

    def _block(self, network: Network, ttl_s: float) -> None:
        self.calls.append(("block_source", str(network), ttl_s))

    def __getattr__(self, name: str):
        return lambda *args: self.calls.append((name, *args))

    def block(self, device_id: bytes, ttl_s: float) -> None:
        self._rule(("block", device_id, ttl_s))

    def set_device(self, device_id: bytes, rate_per_s: float, burst: float) -> None:
        self._rule(("set_device", device_id, rate_per_s, burst))

    def _rule(self, call: tuple) -> None:
        if call[1] not in self.rules and len(self.rules) >= self.room:
            self.calls.append(("full",))
            raise RulesFull("the map is full")
        self.rules.add(call[1])
        self.calls.append(call)

    def unblock(self, device_id: bytes) -> None:
        self.rules.discard(device_id)
        self.calls.append(("unblock", device_id))

    def devices_overridden(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(device_id=name) for name in self.limited]

    def check_pins(self) -> None:
        if self.replaced:
            raise KlaisError("loaded again")

    def interfaces(self) -> tuple[str, ...]:
        if self.attached is None:
            raise PermissionError
        return self.attached

    def counts(self) -> dict[str, tuple[int, int]]:
        return {"pass": (len(self.calls), 0)}

    def set_points_age(self) -> tuple[float | None, bool]:
        return (0.5, True) if any(call[0] == "set_limits" for call in self.calls) else (None, False)

    def block_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dropped = np.array([self.dropped.get(name, 0) for name in self.blocks], np.uint64)
        return np.array(list(self.blocks), "S16"), np.array(list(self.blocks.values()), np.float64), dropped

    def take(self) -> list[tuple]:
        calls, self.calls = self.calls, []
        return calls


class Host:
    """An applier on noted maps, its follower, and a controller that speaks or not."""

    def __init__(self) -> None:
        self.follower, self.maps, self.speaks = ControlFollower(SETTINGS), Noted(), True
        self.refuses: Exception | None = None
        self.applier = Applier(SETTINGS, self.follower, lambda: self.speaks, self.open)

    def open(self, _folder: Path) -> Noted:
        if self.refuses:
            raise self.refuses
        return self.maps

    def put(self, scope: str, **fields: object) -> None:
        self.follower.consume(scope, orjson.dumps(fields))

    def look(self, now_s: float) -> list[tuple]:
        self.applier.poll(now_s)
        return self.maps.take()


@pytest.fixture
def host() -> Host:
    return Host()


def test_the_hosts_own_set_points_are_written_once_and_kept_alive(host: Host) -> None:
    host.put(
        "global", mode="auto", rate=9.0, hosts={HOST: {"rate": 5.0, "burst": 6.0}, "other": {"rate": 1, "burst": 1}}
    )
    assert host.look(100.0) == [("set_limits", 5.0, 6.0, SETTINGS.dam_device_rate, SETTINGS.dam_device_burst)]
    assert host.look(100.1) == []
    beats = sum(len(host.look(100.0 + tick / 10)) for tick in range(2, 100))
    assert beats == pytest.approx(9.9 / (SETTINGS.xdp_heartbeat_s / 4), abs=1)


def test_a_silent_controller_lets_the_heartbeat_lapse_and_an_operator_does_not(host: Host) -> None:
    host.put("global", mode="auto", rate=9.0, hosts={HOST: {"rate": 5.0, "burst": 6.0}})
    host.look(100.0)
    host.speaks = False
    assert [call for tick in range(100) for call in host.look(101.0 + tick)] == []
    host.put("override", mode="manual", rate=9.0)
    assert [call[0] for call in host.look(300.0)] == ["set_limits"]
    assert [call[0] for call in host.look(310.0)] == ["heartbeat"]
    host.put("override", mode="auto")
    assert host.look(320.0) == []
    host.speaks = True
    assert [call[0] for call in host.look(330.0)] == ["set_limits"]


def test_devices_come_and_go(host: Host) -> None:
    host.look(0.0)
    host.put("device/a", rate=2.0, burst=3.0)
    host.put("device/b", rate=4.0)
    calls = host.look(1.0)
    assert sorted(calls) == [("set_device", b"a", 2.0, 3.0), ("set_device", b"b", 4.0, SETTINGS.dam_device_burst)]
    host.follower.consume("device/a", None)
    assert host.look(2.0) == [("clear_device", b"a")]
    host.put("device/b", rate=4.0, limits_until_ms=1)
    assert host.look(3.0) == [("clear_device", b"b")]


def test_blocks_are_renewed_and_lifted(host: Host) -> None:
    host.put("device/a", block=True)
    assert host.look(0.0) == [("block", b"a", TTL_S)]
    assert host.look(RENEW_S / 2) == []
    assert host.look(RENEW_S + 1) == [("block", b"a", TTL_S)]
    host.put("device/a", unblock=True)
    assert host.look(RENEW_S + 2) == [("unblock", b"a")]
    host.put("device/b", block=True, until_ms=1)  # ended long ago
    assert host.look(RENEW_S + 3) == []


def test_blocked_sources_are_written_and_renewed(host: Host) -> None:
    host.put("source/192.0.2.0/24", block=True)
    assert host.look(0.0) == [("block_source", "192.0.2.0/24", TTL_S)]
    assert host.look(RENEW_S / 2) == []
    assert host.look(RENEW_S + 1) == [("block_source", "192.0.2.0/24", TTL_S)]


def test_without_maps_it_says_so_once_and_looks_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.refuses = KlaisError("nothing is pinned")
    host.put("device/a", block=True)
    with caplog.at_level("INFO"):
        for tick in range(100):
            host.look(tick / 10)
    assert caplog.text.count("xdp_maps_missing") == 1
    assert not host.applier.available
    host.refuses = None
    assert host.look(10.0 + OPEN_S) == [("block", b"a", TTL_S)]
    assert host.applier.available


def test_the_filters_counters_are_read_once_a_second(host: Host) -> None:
    host.maps.counts = lambda: {"blocked": (7, 700), "pass": (9, 900)}  # type: ignore[method-assign]
    host.look(100.0)
    assert host.applier.figures.packets == {"blocked": 7, "pass": 9}
    host.maps.counts = lambda: {"blocked": (8, 800), "pass": (9, 900)}  # type: ignore[method-assign]
    host.look(100.5)
    assert host.applier.figures.packets == {"blocked": 7, "pass": 9}
    host.look(101.0)
    assert host.applier.figures.packets == {"blocked": 8, "pass": 9}


def test_each_verdict_has_a_rate_those_of_monitor_mode_too_and_none_over_a_filter_that_was_loaded_again(
    host: Host,
) -> None:
    def counts(**packets: int) -> None:
        host.maps.counts = lambda: {name: (n, 0) for name, n in packets.items()}  # type: ignore[method-assign]

    counts(**{"pass": 100, "blocked": 7, "would_device_rate": 0})
    host.look(100.0)
    assert "rates" not in host.applier.figures.gauges()["xdp"]
    counts(**{"pass": 500, "blocked": 7, "would_device_rate": 30})
    host.look(102.0)
    assert host.applier.figures.gauges()["xdp"]["rates"] == {"pass": 200.0, "would_device_rate": 15.0}
    counts(**{"pass": 3, "blocked": 0, "would_device_rate": 0})
    host.look(103.0)
    assert "rates" not in host.applier.figures.gauges()["xdp"]
    counts(**{"pass": 3, "blocked": 0, "would_device_rate": 0})
    host.look(104.0)
    assert host.applier.figures.gauges()["xdp"]["rates"] == {}


def test_it_says_whose_limits_the_filter_applies_and_nothing_without_a_filter(host: Host) -> None:
    host.look(100.0)
    assert (host.applier.figures.limits_by, host.applier.figures.set_points_age_s) == ("load", None)
    host.put("global", mode="auto", rate=9.0, hosts={HOST: {"rate": 5.0, "burst": 6.0}})
    host.look(101.0)
    assert (host.applier.figures.limits_by, host.applier.figures.set_points_age_s) == ("controller", 0.5)
    expected = {"packets": {"pass": 1}, "limits_by": "controller", "set_points_age_s": 0.5, "rates": {"pass": 1.0}}
    expected |= {"blocked": 0, "interfaces": ["eth0"]}
    assert host.applier.figures.gauges() == {"xdp": expected}
    host.put("override", mode="manual", rate=9.0)
    host.put("global", mode="manual", rate=9.0, hosts={HOST: {"rate": 7.0, "burst": 6.0}})
    host.look(102.0)
    assert host.applier.figures.limits_by == "operator"
    host.maps.counts = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    host.look(103.0)
    assert host.applier.figures.limits_by == "" and host.applier.figures.packets == {}
    assert host.applier.figures.gauges() == {}


def test_blocks_that_only_this_host_knows_are_reported(host: Host) -> None:
    host.put("device/a", block=True)
    host.maps.blocks = {b"a": 30.0, "\u00e4".encode(): np.inf, b"\xff": 12.34}
    host.maps.dropped = {b"a": 7, "\u00e4".encode(): 5}
    host.look(100.0)
    found = host.applier.figures.gauges()["xdp"]
    local = [{"device_id": "\u00e4", "left_s": None, "dropped": 5}]
    local.append({"device_id": "\\xff", "left_s": 12.3, "dropped": 0})
    assert (found["blocked"], found["local_blocks"]) == (3, local)
    assert found["block_drops"] == {"a": 7} and Filter.model_validate(found).blocked == 3
    host.maps.blocks = {b"d%05d" % n: 1.0 for n in range(65_536)}
    host.look(100.0 + BLOCKS_S)
    found = host.applier.figures.gauges()["xdp"]
    assert (found["blocked"], len(found["local_blocks"])) == (65_536, MAX_REPORTED)
    host.maps.blocks = {}
    host.look(100.0 + 2 * BLOCKS_S)
    assert "local_blocks" not in host.applier.figures.gauges()["xdp"]


def test_maps_that_a_load_replaced_are_left_for_the_new_ones(host: Host) -> None:
    host.put("device/a", block=True)
    assert host.look(0.0) == [("block", b"a", TTL_S)]
    old, host.maps = host.maps, Noted()
    old.replaced = True
    assert host.look(2.0) == [] and ("close",) in old.calls and not host.applier.available
    assert host.look(2.0 + OPEN_S) == [("block", b"a", TTL_S)]


def test_a_filter_that_packets_go_around_is_named(host: Host) -> None:
    host.look(0.0)
    assert host.applier.figures.gauges()["xdp"]["interfaces"] == ["eth0"]
    host.maps.attached = ()
    for at_s, bypassed in ((BLOCKS_S, False), (2 * BLOCKS_S, True)):  # it had packets before the first reading
        host.maps.counts = lambda: {"pass": (7, 0)}  # type: ignore[method-assign]
        host.look(at_s)
        assert host.applier.figures.bypassed is bypassed
    host.maps.counts = lambda: {"pass": (8, 0)}  # type: ignore[method-assign]
    host.look(3 * BLOCKS_S)  # attached in a namespace that this process cannot see
    assert not host.applier.figures.bypassed
    host.maps.attached = None
    host.look(4 * BLOCKS_S)
    assert "interfaces" not in host.applier.figures.gauges()["xdp"] and not host.applier.figures.bypassed


def test_a_full_map_of_rules_stops_neither_limits_nor_the_rules_that_fit(host: Host) -> None:
    host.maps.room = 3
    for name in "abcd":
        host.put(f"device/{name}", block=True)
    host.put("device/e", rate=2.0, burst=3.0)
    host.put("global", mode="auto", rate=9.0, hosts={HOST: {"rate": 5.0, "burst": 6.0}})
    names = [call[0] for call in host.look(0.0)]
    assert (names.count("block"), names.count("set_device"), names.count("set_limits")) == (2, 1, 1)
    assert names.count("full") == 1 and host.applier.available
    assert host.look(0.1) == []  # a full map is not searched again at once
    again = [call[0] for call in host.look(RENEW_S + 1)]
    assert (again.count("block"), again.count("full")) == (2, 1)  # what is blocked stays blocked
    kept = sorted(host.maps.rules - {b"e"})
    host.put(f"device/{kept[0].decode()}", unblock=True)
    assert [call for call in host.look(RENEW_S + 1.1) if call[0] != "heartbeat"] == [("unblock", kept[0])]
    assert [call[0] for call in host.look(2 * RENEW_S + 2)].count("block") == 2  # one of the others has its place


def test_a_stop_closes_the_maps_once_and_not_while_the_thread_writes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call on a descriptor that was closed may reach whatever was opened since."""
    monkeypatch.setattr(xdp_applier, "STOP_S", 0.01)
    writes, may_go_on, events = threading.Event(), threading.Event(), list[str]()

    def check_pins() -> None:
        writes.set()
        assert may_go_on.wait(60)
        events.append("written")

    host.maps.check_pins, host.maps.close = check_pins, lambda: events.append("closed")
    host.applier.start()
    assert writes.wait(60)
    host.applier.stop()
    assert events == []
    may_go_on.set()
    host.applier._thread.join(60)
    host.applier.stop()
    assert events == ["written", "closed"]


def test_a_stop_without_a_start_closes_the_maps(host: Host) -> None:
    host.look(0.0)
    host.applier.stop()
    host.applier.stop()
    assert host.maps.take() == [("close",)]


def test_limits_that_ended_while_no_process_ran_here_are_removed_and_those_of_this_host_stay(host: Host) -> None:
    host.maps.limited = ["ended", "cleared", "here", "kept"]
    host.put("device/ended", rate=2.0, limits_until_ms=1)
    host.put("device/cleared", author="ops")
    host.put("device/kept", rate=2.0, burst=3.0)
    host.put("device/new", block=True)
    first = host.look(0.0)
    assert [call for call in first if call[0] == "clear_device"] == [], "klais_control may not be read yet"
    host.follower._caught_up.set()
    assert host.look(0.1) == [("clear_device", b"ended"), ("clear_device", b"cleared")]
    host.maps.limited = ["ended"]  # by `klais xdp rate`, afterwards
    assert host.look(0.2) == []


def test_a_burst_of_less_than_a_frame_is_one_frame_and_stops_nothing_else(host: Host) -> None:
    """The filter refuses it, and no frame would ever pass."""
    host.put("device/a", burst=0.5)
    host.put("device/b", block=True)
    host.put("global", mode="auto", rate=9.0, hosts={HOST: {"rate": 5.0, "burst": 0.1}}, device_rate=1e-6)
    calls = host.look(0.0)
    assert ("set_limits", 5.0, 1.0, 1e-6, 1.0) in calls
    assert ("set_device", b"a", SETTINGS.dam_device_rate, 1.0) in calls and ("block", b"b", TTL_S) in calls
