"""The applier beside a filter that somebody unloads, loads again, or detaches."""

import socket
import subprocess

import orjson

from bench.harness.packets.netns import inside
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import BLOCKS_S, COUNTS_S, OPEN_S, Applier
from klais.core.wire.constants import encode_frame
from klais.xdp.maps import XdpMaps
from tests.support.process import wait_for
from tests.support.xdp_filter import Behind, filtered

DEVICE, FRAMES = "dev-1", 20


def blocked(behind: Behind) -> int:
    """Packets of a device, out of ``FRAMES``, that the present filter drops as blocked."""
    with XdpMaps.open(behind.pin_dir) as maps, behind.pair.sender(socket.AF_INET) as out:
        before = maps.counts()
        for number in range(FRAMES):
            out.sendto(encode_frame(DEVICE, number, b'{"t":1}'), (behind.pair.hosts[0], 5000))

        def seen() -> dict[str, int] | None:
            grown = {name: now[0] - before[name][0] for name, now in maps.counts().items()}
            return grown if sum(grown.values()) >= FRAMES else None

        return int(wait_for(seen, 20, "verdicts of the frames")["blocked"])


def test_a_filter_that_is_unloaded_and_loaded_again_gets_its_blocks() -> None:
    """At once, between two polls: the old maps are still open, but no program reads them."""
    with filtered("ringbuf") as behind:
        settings = behind.settings()
        follower = ControlFollower(settings)
        follower.consume(f"device/{DEVICE}", orjson.dumps({"block": True}))
        applier = Applier(settings, follower)
        try:
            applier.poll(0.0)
            assert blocked(behind) == FRAMES
            behind.unload()
            behind.load()
            assert blocked(behind) == 0
            applier.poll(COUNTS_S)
            assert not applier.available and applier.figures.gauges() == {}
            applier.poll(COUNTS_S + OPEN_S)
            assert blocked(behind) == FRAMES
            behind.load()  # keeps the maps: nothing to do
            applier.poll(2 * COUNTS_S + OPEN_S)
            assert blocked(behind) == FRAMES
        finally:
            applier.stop()


def test_a_filter_that_is_detached_is_seen() -> None:
    with filtered("ringbuf") as behind:
        applier = Applier(behind.settings(), ControlFollower(behind.settings()))
        try:
            with inside(behind.pair.edge):
                applier.poll(0.0)
                assert applier.figures.interfaces == (behind.pair.iface,) and not applier.figures.bypassed
                subprocess.run(["ip", "link", "set", "dev", behind.pair.iface, "xdp", "off"], check=True)
                for poll in (1, 2):
                    applier.poll(poll * BLOCKS_S)
                assert applier.figures.interfaces == () and applier.figures.bypassed
                behind.load()
                applier.poll(3 * BLOCKS_S)
                applier.poll(4 * BLOCKS_S)
                assert applier.figures.interfaces == (behind.pair.iface,) and not applier.figures.bypassed
        finally:
            applier.stop()


def test_a_limit_that_ended_while_no_process_ran_here_is_removed_and_one_of_this_host_stays() -> None:
    with filtered("ringbuf") as behind:
        settings = behind.settings()
        for record in ({"rate": 5.0, "burst": 0.5}, {"rate": 5.0, "limits_until_ms": 1}):
            follower = ControlFollower(settings)
            follower.consume(f"device/{DEVICE}", orjson.dumps(record))
            follower._caught_up.set()
            applier = Applier(settings, follower)
            applier.poll(0.0)
            assert applier.available
            applier.stop()
            with XdpMaps.open(behind.pin_dir) as maps:
                maps.set_device("local", 7.0, 8.0)
                found = {rule.device_id: rule.burst for rule in maps.devices_overridden()}
            assert found == {"local": 8.0} | ({} if "limits_until_ms" in record else {DEVICE: 1.0})
