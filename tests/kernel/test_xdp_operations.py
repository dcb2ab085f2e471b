"""What operators do to a running filter, and what befalls it, while numbered frames flow: none lost, none unjudged."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.harness.packets.netns import inside, run
from klais.core.wire.constants import encode_frame
from klais.errors import XdpForeign, XdpUnavailable
from klais.system.waiting import poll_until
from klais.xdp import bpf, bpffs, netlink
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps
from tests.support.process import PATIENCE, wait_for
from tests.support.xdp import BAD, WIDE, Counter, Flow, Rig, rig

# mov r0, 2; exit: an XDP program that passes everything, as somebody else's might
PASS_ALL = bytes([0xB7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])


@contextmanager
def flowing(found: Rig) -> Iterator[Flow]:
    """Traffic meanwhile; afterwards every good frame must have arrived and no bad one, and each was counted once."""
    with found.receiver() as source:
        before, counter, flow = found.counts(), Counter(source), Flow(found)
        try:
            wait_for(lambda: flow.sent > 50, 10, "traffic")
            yield flow
            sent = flow.finish()

            def judged() -> bool:
                now = found.counts()
                done = min(now[name] - before[name] for name in ("pass", "bad_magic"))
                return done >= sent and len(counter.numbers) + counter.others >= sent

            # What is missing after that is missing for good; the kernel may handle the last packets late.
            poll_until(judged, 10 * PATIENCE, 0.02)
        finally:
            flow.finish()
            counter.finish()
    assert counter.numbers == list(range(sent)), f"{sent} sent, {len(counter.numbers)} arrived"
    assert counter.others == 0, "a frame passed unjudged"
    after = found.counts()
    assert after["pass"] - before["pass"] == after["bad_magic"] - before["bad_magic"] == sent


def test_a_reload_leaves_no_gap_and_keeps_rules_buckets_counts_and_set_points() -> None:
    with rig() as found, found.maps() as maps:
        maps.block("stays-blocked")
        maps.set_monitor("global_rate", True)
        maps.set_limits(5e6, 1e6, 1e6, 1e6)
        first = found.attached()[0].prog
        with flowing(found) as flow:
            for _ in range(3):
                done = found.load(limits=Limits(1e7, 1e6, 1e6, 1e6))
                assert done.new_maps == [] and done.replaced == ["in0"]
                at = flow.sent
                wait_for(lambda at=at: flow.sent > at + 50, 10, "traffic after the reload")
        (now,) = found.attached()
        assert now.prog.id != first.id and now.prog.tag == first.tag and now.link.mode == "native"
        assert [rule.device_id for rule in maps.blocked()] == ["stays-blocked"]
        status = maps.status()
        assert (
            status.monitor == ("global_rate",)
            and status.in_force.rate_per_s == 5e6
            and status.at_load.rate_per_s == 1e7
        )


def test_a_map_of_another_size_begins_anew_and_the_others_stay() -> None:
    with rig() as found:
        with found.maps() as maps:
            maps.block("stays-blocked")
        done = found.load(devices=1024)
        assert done.new_maps == ["sets", "owners", "spread"] and "rules" in done.kept_maps
        with found.maps() as maps:
            assert [rule.device_id for rule in maps.blocked()] == ["stays-blocked"]
            assert bpf.map_info(maps.fd("sets")).entries == 1024


def test_maps_of_another_version_are_refused_and_replaced_by_a_load() -> None:
    with rig() as found:
        with found.maps() as maps:
            maps.block("forgotten")
            maps._config["version"] = 999
        with pytest.raises(XdpUnavailable, match="another version"):
            XdpMaps.open(found.pin_dir)
        done = found.load()
        assert done.kept_maps == [] and done.replaced == ["in0"]
        with found.maps() as maps:
            assert maps.blocked() == []


def test_a_block_ends_by_itself_in_the_kernel() -> None:
    with rig() as found, found.raw() as raw:
        packet = raw.udp(encode_frame("for-a-moment", 1, b"{}"))

        def passes() -> bool:
            raw.send(packet)
            return found.counts()["pass"] > 0

        for lasts_s in (0.6, 6.0, 60.0):
            before = found.counts()
            began = time.monotonic()
            with found.maps() as maps:
                maps.block("for-a-moment", lasts_s)
            # From here on no process holds the maps.
            raw.send(packet)
            after = found.counts()
            if time.monotonic() - began < lasts_s:  # else this machine stood still for too long to say
                assert after["blocked"] == before["blocked"] + 1 and after["pass"] == before["pass"]
                break
        assert after["pass"] == 0
        wait_for(passes, 10, "the end of the block")
        assert time.monotonic() - began >= lasts_s
        with found.maps() as maps:
            assert maps.blocked() == []
            assert maps.sweep() == 1 and maps.sweep() == 0


def test_each_block_counts_the_packets_that_it_drops() -> None:
    with rig() as found, found.raw() as raw, found.maps() as maps:

        def send(device_id: str, count: int) -> None:
            for number in range(count):
                raw.send(raw.udp(encode_frame(device_id, number, b"{}")))

        def dropped() -> dict[str, int]:
            return {rule.device_id: rule.dropped for rule in maps.blocked()}

        for device_id in ("loud", "quiet", "watched"):
            maps.block(device_id, 3600)
        send("loud", 5)
        send("quiet", 1)
        send("free", 2)
        assert dropped() == {"loud": 5, "quiet": 1, "watched": 0}
        maps.block("loud", 7200)  # renewed, as an edge does every few seconds, and with a rate besides
        maps.set_device("loud", 5, 10)
        send("loud", 2)
        assert dropped()["loud"] == 7
        ids, _, counts = maps.block_rows()
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {b"loud": 7, b"quiet": 1, b"watched": 0}
        maps.unblock("loud")
        assert next(rule for rule in maps.rules() if rule.device_id == "loud").dropped == 0
        maps.block("loud", 3600)
        assert dropped()["loud"] == 0, "another block"
        maps.set_monitor("block", True)
        send("watched", 3)
        assert dropped()["watched"] == 0, "they passed"
        assert found.counts()["blocked"] == 8 and found.counts()["would_blocked"] == 3


def test_allow_and_own_rates_end_too() -> None:
    with rig(Limits(1e8, 1e9, 0.001, 1)) as found, found.raw() as raw, found.maps() as maps:
        packet = raw.udp(encode_frame("vip", 1, b"{}"))
        maps.allow("vip", 3600)
        raw.send(packet, 5)
        assert found.counts()["pass"] == 5
        maps.allow("vip", 0.05)
        time.sleep(0.1)
        raw.send(packet, 5)
        assert (found.counts()["pass"], found.counts()["device_rate"]) == (6, 4)
        maps.set_device("vip", 1e6, 1e6)
        time.sleep(0.01)
        raw.send(packet, 5)
        assert found.counts()["pass"] == 11
        assert maps.clear_device("vip") and not maps.clear_device("vip")


def test_stale_set_points_give_way_to_the_limits_given_at_load() -> None:
    at_load = Limits(1e8, 1e9, 0.001, 2)
    with rig(at_load, heartbeat_s=3600) as found, found.raw() as raw, found.maps() as maps:

        def passed(device: str) -> int:
            before = found.counts()["pass"]
            raw.send(raw.udp(encode_frame(device, 1, b"{}")), 10)
            return found.counts()["pass"] - before

        assert passed("one") == 2, "no controller yet: the limits given at load"
        maps.set_limits(1e8, 1e9, 0.001, 5)
        assert passed("two") == 5 and maps.status().fresh
        time.sleep(0.2)
        assert maps.status().heartbeat_age_s >= 0.2
        began = time.monotonic()
        maps.heartbeat()  # from now on they have all of their time again
        assert maps.status().heartbeat_age_s <= time.monotonic() - began
        assert passed("three") == 5
        maps.set_limits_at_load(at_load, 0.05)
        time.sleep(0.1)
        assert not maps.status().fresh and maps.status().heartbeat_age_s > 0.05
        assert passed("four") == 2
        maps.set_limits_at_load(at_load, 3600)
        maps.heartbeat()
        assert passed("five") == 5
        maps.drop_set_points()
        assert passed("six") == 2
        maps.set_limits(math.inf, math.inf, math.inf, math.inf)
        assert passed("seven") == 10


def test_kill_9_of_a_writer_of_the_maps_leaves_a_working_filter() -> None:
    code = (
        "import sys, time; from pathlib import Path; from klais.xdp.maps import XdpMaps\n"
        "maps = XdpMaps.open(Path(sys.argv[1])); print('open', flush=True)\n"
        "while True: maps.set_limits(1e8, 1e9, 1e6, 1e6); maps.block('victim', 3600)\n"
    )
    with rig(heartbeat_s=0.3) as found, flowing(found) as flow:
        for _ in range(5):
            child = subprocess.Popen([sys.executable, "-c", code, str(found.pin_dir)], stdout=subprocess.PIPE)
            assert child.stdout is not None and child.stdout.readline() == b"open\n"
            time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        with found.maps() as maps:
            assert maps.status().in_force == WIDE
            maps.unblock("victim")  # nobody holds the lock any more
        wait_for(lambda: not status_of(found).fresh, 10, "stale")
        at = flow.sent
        wait_for(lambda: flow.sent > at + 100, 10, "traffic on the limits given at load")


def status_of(found: Rig) -> object:
    with found.maps() as maps:
        return maps.status()


@pytest.mark.parametrize("delay_ms", [0, 30, 120, 300])
def test_kill_9_of_a_loader_leaves_the_old_filter_or_the_new_one(delay_ms: int) -> None:
    code = (
        "import sys; from pathlib import Path; from klais.xdp import loader; from klais.xdp.limits import Limits\n"
        "request = loader.Request('in0', Path(sys.argv[1]), [5000], Limits(1e8, 1e9, 1e6, 1e6), 10.0, 2048, 65536)\n"
        "print('go', flush=True)\n"
        "while True: loader.load(request)\n"
    )
    with rig() as found, found.maps() as maps:
        maps.block("stays-blocked")
        with flowing(found):
            with inside(found.pair.edge):
                child = subprocess.Popen([sys.executable, "-c", code, str(found.pin_dir)], stdout=subprocess.PIPE)
            assert child.stdout is not None and child.stdout.readline() == b"go\n"
            time.sleep(delay_ms / 1000)
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
            assert len(found.attached()) == 1
            found.load()  # tidies up
        assert not list(bpffs.pending(found.pin_dir))
        with found.maps() as now:
            assert [rule.device_id for rule in now.blocked()] == ["stays-blocked"]


def test_a_foreign_program_is_named_and_neither_replaced_nor_removed() -> None:
    with rig(load=False) as found:
        theirs = bpf.prog_load(PASS_ALL, "theirs")
        with inside(found.pair.edge):
            netlink.attach(netlink.link("in0"), theirs, "native")
        os.close(theirs)
        with pytest.raises(
            XdpForeign, match=r"in0 carries the XDP program 'theirs' \(id \d+, tag [0-9a-f]{16}, native mode\)"
        ):
            found.load()
        with pytest.raises(XdpForeign, match="theirs"):
            found.unload(iface="in0")
        assert found.unload() == []
        with inside(found.pair.edge):
            left = netlink.link("in0")
        assert left.mode == "native" and left.prog_id


def test_a_filter_of_another_folder_is_foreign_too() -> None:
    with rig() as found:
        other = Rig(found.pair, found.request)
        first = found.attached()[0].prog.id
        with pytest.raises(XdpForeign, match="klais_xdp"):
            other.load(pin_dir=Path(f"{found.pin_dir}-other"))
        assert found.attached()[0].prog.id == first
        other.unload()
        assert not Path(f"{found.pin_dir}-other").exists()


def test_nobody_can_slip_between_the_look_and_the_attach() -> None:
    with rig(load=False) as found:
        ours, theirs = (bpf.prog_load(PASS_ALL, name) for name in ("ours", "theirs"))
        with inside(found.pair.edge):
            at = netlink.link("in0")
            netlink.attach(at, theirs, "native")
            with pytest.raises(XdpForeign):
                netlink.attach(at, ours, "native")
            with pytest.raises(XdpForeign):
                netlink.replace(netlink.link("in0"), ours, ours)
            with pytest.raises(XdpForeign):
                netlink.detach(netlink.link("in0"), ours)
            netlink.detach(netlink.link("in0"), theirs)
            assert netlink.link("in0").prog_id == 0
        os.close(ours)
        os.close(theirs)


def test_down_and_up_again_keeps_the_filter() -> None:
    with rig() as found:
        with flowing(found):
            pass
        for _ in range(3):
            run("ip", "-n", found.pair.edge, "link", "set", "in0", "down")
            run("ip", "-n", found.pair.edge, "link", "set", "in0", "up")
        assert [(at.link.name, at.link.mode) for at in found.attached()] == [("in0", "native")]
        wait_for(lambda: _carrier(found), 10, "the link up")
        with flowing(found):
            pass


def _carrier(found: Rig) -> bool:
    return "LOWER_UP" in run("ip", "-n", found.pair.edge, "link", "show", "in0")


def test_two_interfaces_share_one_filter_and_are_reloaded_together() -> None:
    with rig() as found, ExitStack() as stack:
        run(
            "ip",
            "-n",
            found.pair.edge,
            "link",
            "add",
            "in1",
            "type",
            "veth",
            "peer",
            "name",
            "out1",
            "netns",
            found.pair.devices,
        )
        run("ip", "-n", found.pair.edge, "link", "set", "in1", "up")
        run("ip", "-n", found.pair.devices, "link", "set", "out1", "up")
        second = found.load(iface="in1")
        assert second.replaced == ["in0"] and second.mode == "native"
        assert {at.link.name for at in found.attached()} == {"in0", "in1"}
        assert len({at.prog.id for at in found.attached()}) == 1
        stack.enter_context(flowing(found))
        assert found.load(iface="in0").replaced == ["in0", "in1"]
        assert found.unload(iface="in1") == ["in1"]
        assert [at.link.name for at in found.attached()] == ["in0"] and found.pin_dir.is_dir()


def test_unload_lets_everything_through_and_removes_the_pins() -> None:
    with rig() as found:
        with found.raw() as raw, found.receiver() as source:
            counter = Counter(source)
            raw.send(raw.udp(BAD))
            assert found.unload() == ["in0"] and not found.pin_dir.exists()
            raw.send(raw.udp(BAD))
            wait_for(lambda: counter.others == 1, 10, "the frame that nobody drops any more")
            counter.finish()
        assert found.unload() == []
        with pytest.raises(XdpUnavailable, match=r"no filter is loaded.*klais xdp load"):
            XdpMaps.open(found.pin_dir)


def test_rules_survive_an_unload_that_keeps_the_maps() -> None:
    with rig() as found:
        with found.maps() as maps:
            maps.block("kept")
        found.unload(keep_maps=True)
        assert not found.attached()
        assert found.load().new_maps == []
        with found.maps() as maps:
            assert [rule.device_id for rule in maps.blocked()] == ["kept"]


def test_generic_mode_only_when_asked_or_with_a_notice() -> None:
    with rig(load=False) as found:
        with pytest.raises(XdpUnavailable, match=r"lo does not take the filter in native mode.*--mode generic"):
            found.load(iface="lo")
        assert not found.pin_dir.exists() or not any(found.pin_dir.iterdir())
        done = found.load(iface="lo", mode="auto")
        assert done.mode == "generic" and "lo has no native mode" in " ".join(done.notices)
        found.unload()
        assert found.load(iface="in0", mode="generic").mode == "generic"
        with flowing(found):
            assert found.load().replaced == ["in0"]
        assert found.attached()[0].link.mode == "generic"


def test_errors_say_what_to_do() -> None:
    with rig(load=False) as found:
        with pytest.raises(XdpUnavailable, match="there is no interface 'nope', only lo"):
            found.load(iface="nope")
        with pytest.raises(XdpUnavailable, match="is not in a bpffs"):
            found.load(iface="in0", pin_dir=Path("/tmp/klais-no-bpffs"))
