"""One controller, two hosts: what a real worker decides changes the verdicts of real XDP programs in two namespaces."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from klais.config.host import host_of
from klais.config.load import Settings
from klais.control.overrides import write
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import Applier
from klais.core.wire.constants import encode_frame
from klais.kafka.stats import ControlProducer, StatsFollower
from klais.telemetry.stats import StatsPublisher
from klais.xdp.maps import XdpMaps
from tests.support.fault_harness import worker
from tests.support.process import wait_for
from tests.support.xdp_filter import Behind, filtered

HEARTBEAT_S = 5.0
FRAMES = 400


class Host:
    """A namespace with a filter, and what runs beside an edge there: a follower, an applier, a record a second."""

    def __init__(self, behind: Behind, shared: Settings, number: int) -> None:
        self.behind = behind
        given = {"kafka_bootstrap": shared.bootstrap, "topic_prefix": shared.topic_prefix, "control_auto": True}
        self.settings = Settings(xdp_pin_dir=behind.pin_dir, xdp_heartbeat_s=HEARTBEAT_S, edge_id=number, **given)
        self.maps = XdpMaps.open(behind.pin_dir)
        self.maps.set_limits_at_load(self.maps.status().at_load, HEARTBEAT_S)
        self.follower, self.stats = ControlFollower(self.settings), StatsFollower(self.settings)
        self.applier = Applier(self.settings, self.follower, lambda: bool(self.stats.newest("controller")))
        self.producer = ControlProducer(self.settings, f"edge-{number}")
        self.received = 0
        self.edge = StatsPublisher(self.producer, "edge", f"edge-{number}", self._said, host=host_of(self.settings))
        self._sequence = 0
        for part in (self.follower, self.stats, self.applier, self.edge):
            part.start()

    def _said(self) -> tuple[dict, dict]:
        self.received += 1000
        return {"received": self.received, "received_bytes": 50 * self.received, "dropped": {}}, {"cpu_share": 0.1}

    def send(self, device: str, frames: int = FRAMES) -> dict[str, int]:
        """Send frames through the filter at once; verdicts that they got."""
        before = self.maps.counts()
        with self.behind.pair.sender(socket.AF_INET) as out:
            for _ in range(frames):
                self._sequence += 1
                out.sendto(encode_frame(device, self._sequence, b'{"t":1}'), (self.behind.pair.hosts[0], 5000))
        names = ("pass", "blocked", "blocked_source", "device_rate", "global_rate")

        def seen() -> dict[str, int] | None:
            now = self.maps.counts()
            grown = {name: now[name][0] - before[name][0] for name in names}
            return grown if sum(grown.values()) == frames else None

        return wait_for(seen, 5, f"verdicts of {frames} frames")

    def close(self) -> None:
        for part in (self.edge, self.applier, self.stats, self.follower):
            part.stop()
        self.producer.close()
        self.maps.close()


@pytest.fixture
def hosts(settings_for, topics_of) -> Iterator[tuple[Settings, list[Host]]]:
    settings = settings_for(partitions=2)
    with ExitStack() as stack:
        filters = [stack.enter_context(filtered("ringbuf")) for _ in range(2)]
        topics_of(settings)
        made = []
        for number, behind in enumerate(filters, 1):
            made.append(Host(behind, settings, number))
            stack.callback(made[-1].close)
        yield settings, made


def test_two_hosts_follow_one_controller_and_an_operator(hosts, tmp_path: Path) -> None:
    settings, (one, two) = hosts
    auto = {"control_auto": "true", "dam_max_rate": 10_000, "dam_queue_limit": 0, "xdp_pin_dir": tmp_path / "none"}
    with worker(settings, tmp_path / "worker.log", **auto) as it:
        it.wait_ready()
        for host in (one, two):
            wait_for(lambda host=host: host.maps.status().fresh, 20, "set-points in the maps")
            assert host.send("dev-a")["pass"] == FRAMES
        # the decision changes the verdicts, on both
        write(settings, "override", {"mode": "manual", "rate": 40.0, "burst": 20.0}, "ops", "a test")
        for host in (one, two):
            wait_for(
                lambda host=host: host.maps.status().in_force.rate_per_s < 40, 5, "the operator's rate in the maps"
            )
        in_force = [host.maps.status().in_force.rate_per_s for host in (one, two)]
        assert sum(in_force) == pytest.approx(40.0, rel=0.02)  # shared out by what each receives
        for host in (one, two):
            began_s = time.monotonic()
            found = host.send("dev-a")
            assert found["pass"] <= 20 + 40 * (time.monotonic() - began_s)
            assert found["global_rate"] == FRAMES - found["pass"] > 0
        write(settings, "override", {"mode": "auto", "rate": None, "burst": None}, "ops", "over")
        write(settings, "device/dev-b", {"block": True}, "ops", "hostile")
        write(settings, "device/dev-c", {"rate": 1.0, "burst": 5.0}, "ops", "noisy")
        for host in (one, two):
            wait_for(lambda host=host: len(host.maps.blocked()) == 1, 5, "the block in the maps")
            wait_for(lambda host=host: len(host.maps.devices_overridden()) == 1, 5, "the device's rate in the maps")
            wait_for(lambda host=host: host.maps.status().in_force.rate_per_s > 500, 10, "automatic again")
            assert host.send("dev-b", 50)["blocked"] == 50
            began_s = time.monotonic()
            assert 50 - host.send("dev-c", 50)["device_rate"] <= 5 + time.monotonic() - began_s
        # the controller is gone: its set-points lapse, the limits given at load hold; the operator's block stays
        it.kill()
        for host in (one, two):
            wait_for(lambda host=host: not host.maps.status().fresh, HEARTBEAT_S + 8, "the heartbeat to lapse")
            assert host.send("dev-a")["pass"] == FRAMES
            assert host.send("dev-b", 50)["blocked"] == 50


def test_a_blocked_source_is_blocked_on_every_host_and_an_allowed_address_is_not(hosts) -> None:
    settings, both = hosts
    (address,) = {host.behind.pair.peers[0] for host in both}
    wide = str(ip_network((address, 16), strict=False))
    write(settings, f"source/{wide}", {"block": True}, "ops", "flood")
    for host in both:
        wait_for(lambda host=host: len(host.maps.source_blocks.all()) == 1, 5, "the block in the map")
        assert host.send("invented-1", 50)["blocked_source"] == host.send("invented-2", 50)["blocked_source"] == 50
        wait_for(lambda host=host: host.applier.figures.source_drops == {wide: 100}, 20, "the report of the drops")
        assert host.applier.figures.gauges()["xdp"]["blocked_sources"] == 1
        host.maps.sources.allow(address)  # a longer prefix
        assert host.send("dev-a", 50)["pass"] == 50
        wait_for(lambda host=host: host.applier.sources.allowed == (ip_network(address),), 20, "the list at the edge")
        host.maps.sources.disallow(address)
        assert host.send("dev-a", 50)["blocked_source"] == 50
    write(settings, f"source/{wide}", {"block": None, "unblock": True}, "ops", "over")
    for host in both:
        wait_for(lambda host=host: host.maps.source_blocks.all() == [], 5, "the end of the block")
        assert host.send("dev-a", 50)["pass"] == 50
