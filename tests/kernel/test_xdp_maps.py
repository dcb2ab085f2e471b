"""The pinned maps from other processes: rights, writers at once, the room for rules, what can be read."""

import os
import subprocess
import sys
import time
from ipaddress import ip_network

import numpy as np
import pytest

from bench.harness.packets.packet import udp_packet
from klais.core.wire.constants import encode_frame
from klais.errors import RulesFull, SourceBlocksFull, XdpUnavailable
from klais.xdp.layout import BLOCKED_SOURCES, RULES, Verdict
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps
from tests.support.process import PATIENCE, wait_for
from tests.support.xdp import rig


def test_without_the_right_to_the_maps_say_so() -> None:
    with rig() as found:
        pid = os.fork()
        if pid == 0:
            try:
                os.setuid(65_534)
                XdpMaps.open(found.pin_dir)
            except XdpUnavailable as error:
                os._exit(0 if "need root" in str(error) else 2)
            except BaseException:
                os._exit(3)
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_maps_may_be_closed_twice() -> None:
    with rig() as found:
        maps = XdpMaps.open(found.pin_dir)
        maps.close()
        before = len(os.listdir("/proc/self/fd"))
        maps.close()  # the numbers of its descriptors may be those of other files now
        assert len(os.listdir("/proc/self/fd")) == before


def test_two_processes_may_change_the_same_rule_at_once() -> None:
    code = (
        "import sys; from pathlib import Path; from klais.xdp.maps import XdpMaps\n"
        "with XdpMaps.open(Path(sys.argv[1])) as maps:\n"
        "    for i in range(300):\n"
        "        maps.set_device('both', 5 + i, 10) if sys.argv[2] == 'rate' else maps.block('both', 3600 + i)\n"
    )
    with rig() as found:
        children = [
            subprocess.Popen([sys.executable, "-c", code, str(found.pin_dir), what]) for what in ("rate", "block")
        ]
        assert [child.wait(60 * PATIENCE) for child in children] == [0, 0]
        with found.maps() as maps:
            (rule,) = maps.rules()
            assert rule.rate_per_s == 304 and rule.blocked_for_s is not None and rule.blocked_for_s > 3800


def test_as_many_rules_as_there_is_room_for() -> None:
    with rig() as found, found.maps() as maps:
        maps.block("soon-over", 0.2)
        names = [f"device-{i}" for i in range(RULES - 1)]
        maps.set_devices(names, 5, 10)
        time.sleep(0.25)
        maps.block("takes its place", 60)  # the one that is over made room
        with pytest.raises(RulesFull, match="65,536 devices have their own rule"):
            maps.block("one too many", 60)
        rules = maps.rules()
        assert len(rules) == RULES and sum(rule.rate_per_s is not None for rule in rules) == RULES - 1
        maps.block("device-5")
        ids, left_s, _ = maps.block_rows()
        blocked = dict(zip(ids.tolist(), left_s.tolist(), strict=True))
        assert blocked.pop(b"device-5") == np.inf
        assert set(blocked) == {b"takes its place"} and 0 < blocked[b"takes its place"] <= 60


def test_counts_and_rows_from_another_process() -> None:
    with rig(Limits(1e8, 1e9, 0.001, 3)) as found, found.raw() as raw, found.maps() as maps:
        for device, times in (("one", 5), ("two", 2)):
            raw.send(raw.udp(encode_frame(device, 1, b"{}")), times)
        rows = np.concatenate([part.copy() for part in maps.device_rows()])
        seen = {bytes(row["id"]).rstrip(b"\0"): (int(row["passed"]), int(row["dropped"])) for row in rows}
        assert seen == {b"one": (3, 2), b"two": (2, 0)}
        packets, size = maps.counts()[Verdict.PASS.label]
        assert packets == 5 and size == 5 * len(raw.udp(encode_frame("one", 1, b"{}")))


def test_blocked_sources_end_by_themselves_and_keep_their_count_when_renewed() -> None:
    narrow, wide = ip_network("10.1.2.0/24"), ip_network("10.0.0.0/8")
    with rig() as found, found.raw() as raw, found.maps() as maps:
        packet = raw.addressed(udp_packet(encode_frame("dev", 1, b"{}"), "10.1.2.3", to=found.pair.hosts[0]))
        assert maps.source_blocks.all() == []
        maps.source_blocks.block(wide)
        maps.source_blocks.block(narrow, 0.3)  # a look-up of its key finds the wider one: it must start at 0
        assert [(each.prefix, each.dropped) for each in maps.source_blocks.all()] == [
            ("10.0.0.0/8", 0), ("10.1.2.0/24", 0),
        ]  # fmt: skip
        raw.send(packet, 5)
        wait_for(lambda: len(maps.source_blocks.all()) == 1, 5, "the end of the block")
        raw.send(packet)  # the expired entry hides the wider one until somebody sweeps it
        assert maps.counts()["blocked_source"][0] == 5 and maps.counts()["pass"][0] == 1
        assert maps.source_blocks.sweep() == 1 and maps.source_blocks.sweep() == 0
        raw.send(packet, 7)
        maps.source_blocks.block(wide, 60)
        (block,) = maps.status().blocked_sources
        assert (block.prefix, block.dropped) == ("10.0.0.0/8", 7) and 0 < block.left_s <= 60
        assert not maps.source_blocks.unblock(narrow) and maps.source_blocks.unblock(wide)
        raw.send(packet)
        assert maps.counts()["blocked_source"][0] == 12 and maps.counts()["pass"][0] == 2


def test_as_many_blocked_sources_as_there_is_room_for() -> None:
    with rig() as found, found.maps() as maps:
        for n in range(BLOCKED_SOURCES - 1):
            maps.source_blocks.block(ip_network((0x0A000000 + 256 * n, 24)))
        maps.source_blocks.block(ip_network("192.0.2.1"), 0.2)
        wait_for(lambda: len(maps.source_blocks.all()) == BLOCKED_SOURCES - 1, 5, "the end of the block")
        maps.source_blocks.block(ip_network("2001:db8::/32"))  # the one that is over made room
        with pytest.raises(SourceBlocksFull, match="4,096 prefixes"):
            maps.source_blocks.block(ip_network("192.0.2.2"))
        assert len(maps.source_blocks.all()) == BLOCKED_SOURCES


def test_a_reload_keeps_blocked_sources() -> None:
    with rig() as found, found.raw() as raw:
        packet = raw.addressed(udp_packet(encode_frame("dev", 1, b"{}"), "10.1.2.3", to=found.pair.hosts[0]))
        with found.maps() as maps:
            maps.source_blocks.block(ip_network("10.1.2.3"))
        found.load(limits=Limits(5, 5, 5, 5))
        raw.send(packet, 3)
        assert found.counts()["blocked_source"] == 3


def test_a_filter_that_lacks_a_map_is_one_of_another_version() -> None:
    with rig() as found:
        (found.pin_dir / "src_block").unlink()
        with pytest.raises(XdpUnavailable, match=r"another version of klais is loaded.*`klais xdp load`"):
            XdpMaps.open(found.pin_dir)
        found.load()
        with found.maps() as maps:
            assert maps.source_blocks.all() == []
