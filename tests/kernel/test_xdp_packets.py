"""Every packet fixture through the real program, the same parsing compiled for user space, and the edge's own Python
path.
"""

from collections.abc import Iterator
from ipaddress import ip_address

import numpy as np
import pytest

from bench.harness.packets.packet import payload_of, udp_packet
from bench.harness.packets.row import V6, WIDE, Row, frame, sent
from bench.harness.packets.rows import all_rows
from klais.core.wire.constants import Reason
from klais.core.wire.frame import check_headers
from klais.errors import SetupMissing, XdpUnavailable
from klais.system.prefix import network_of
from klais.xdp import bpf
from klais.xdp.layout import SLOT_FRAME_BYTES, Verdict
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps
from klais.xdp.pins import read_spread
from klais.xdp.sources import SourceLimit
from klais.xdp.test_run import LoadedFilter, loaded_filter
from tests.support.needs import need_missing
from tests.support.xdp_native import Native

ROWS = all_rows()
AUTH = {verdict for verdict in Verdict if int(verdict) & 31 in range(Verdict.BAD_MAC, Verdict.UNVERIFIED + 1)}
PARSED = [row for row in ROWS if row.by_parsing and not row.rules]


@pytest.fixture(scope="module")
def filter_() -> Iterator[LoadedFilter]:
    try:
        with loaded_filter(WIDE) as found:
            yield found
    except (XdpUnavailable, SetupMissing) as error:
        need_missing("kernel", str(error))


def test_there_are_enough_rows_and_each_has_a_name() -> None:
    names = [row.name for row in ROWS]
    assert len(names) >= 120 and len(set(names)) == len(names)
    assert {row.verdict for row in ROWS} == set(Verdict) - {
        Verdict.RING_FULL,
        Verdict.TOO_LONG,
        Verdict.AGGREGATED,
        *AUTH,
    }  # not by bytes


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_filter_says(row: Row, filter_: LoadedFilter) -> None:
    filter_.refill(row.limits)
    if row.prepare:
        row.prepare(filter_.maps)
    for rule in row.rules:
        filter_.maps.set_monitor(rule, True)
    try:
        for packet in row.before:
            filter_.judge(packet)
        action, verdict = filter_.judge(row.packet)
    finally:
        for rule in row.rules:
            filter_.maps.set_monitor(rule, False)
        filter_.maps.set_fragments("pass")
        filter_.maps.sources.set_limit(SourceLimit())
        for network in filter_.maps.sources.allowed():
            filter_.maps.sources.disallow(str(network))
        for block in filter_.maps.source_blocks.all():
            filter_.maps.source_blocks.unblock(network_of(block.prefix))
    assert verdict == row.verdict
    assert action == (bpf.XDP_DROP if row.verdict.drops else bpf.XDP_PASS)


@pytest.mark.parametrize("row", PARSED, ids=lambda row: row.name)
def test_the_same_lines_say_so_in_user_space(row: Row, native: Native) -> None:
    assert native.judge(row.packet).verdict == row.verdict


@pytest.mark.parametrize("row", [row for row in PARSED if row.frame is not None], ids=lambda row: row.name)
def test_the_edge_says_the_same(row: Row) -> None:
    found = payload_of(row.packet)
    assert found is not None and found[0] == row.frame
    column = np.frombuffer(found[0] or b"\0", np.uint8)
    reason, id_size = np.zeros(1, np.uint8), np.zeros(1, np.uint8)
    starts, lengths = np.zeros(1, np.int64), np.array([len(found[0])], np.int64)
    check_headers(column, starts, lengths, reason, np.zeros((1, 2), np.uint64), np.zeros(1, np.uint32), id_size)
    edge = Verdict.PASS if reason[0] == 0 else Verdict[Reason(reason[0]).name]
    assert edge == row.verdict


def test_every_cut_of_every_packet_is_judged_without_a_read_behind_its_end(native: Native) -> None:
    for row in ROWS[::3]:
        for size in range(len(row.packet)):
            found = native.judge(row.packet[:size])
            assert found.verdict in (Verdict.NOT_OURS, Verdict.FRAGMENT, row.verdict) or found.verdict.drops, row.name


def test_the_verifier_is_far_from_its_limit(filter_: LoadedFilter) -> None:
    # It gives up after a million instructions, and other kernels' verifiers walk more of the same program.
    assert 0 < bpf.prog_info(filter_.prog_fd).verified_insns < 250_000  # half of it for the tag: a loop


def test_a_frame_reaches_the_ring_as_it_was_sent(filter_: LoadedFilter) -> None:
    filter_.refill(WIDE)
    filter_.maps.set_accept("ring")
    try:
        assert filter_.judge(sent(frame("ring", b"x" * 300))) == (bpf.XDP_DROP, Verdict.PASS)
        assert filter_.judge(sent(frame("ring"), V6)) == (bpf.XDP_DROP, Verdict.PASS)
        assert filter_.judge(sent(b"x" * 30)) == (bpf.XDP_DROP, Verdict.BAD_MAGIC)
        whole = sent(frame("ring", b"x" * (SLOT_FRAME_BYTES - 22)))
        assert filter_.judge(whole) == (bpf.XDP_DROP, Verdict.PASS)
        assert filter_.judge(sent(frame("ring", b"x" * (SLOT_FRAME_BYTES - 21)))) == (bpf.XDP_PASS, Verdict.TOO_LONG)
        for _ in range(28):  # 65,536 bytes hold 31 slots of 2112 bytes
            assert filter_.judge(sent(frame("ring")))[1] == Verdict.PASS
        assert filter_.judge(sent(frame("ring"))) == (bpf.XDP_DROP, Verdict.RING_FULL)
    finally:
        filter_.maps.set_accept("pass")


def test_without_a_socket_in_its_queue_a_frame_goes_to_the_stack(filter_: LoadedFilter) -> None:
    filter_.refill(WIDE)
    filter_.maps.set_accept("xsk")
    try:
        assert filter_.judge(sent(frame("nobody"))) == (bpf.XDP_PASS, Verdict.PASS)
    finally:
        filter_.maps.set_accept("pass")


def test_devices_whose_keys_are_equal_have_rules_and_buckets_of_their_own() -> None:
    with loaded_filter(Limits(1e8, 1e9, 0.001, 2)) as found:
        spread = read_spread(found.fds["spread"])
        spread["multipliers"] = 0  # now every device has the same key and the same sets
        bpf.update(found.fds["spread"], np.zeros(1, np.uint32), spread)
        with XdpMaps.open(found.maps.pin_dir) as maps:
            maps.block("blocked", 60)
            maps.allow("allowed", 60)
            maps.set_device("more", 0.001, 3)
            assert [rule.device_id for rule in maps.rules()] == ["allowed", "blocked", "more"]
            seen = {
                name: [found.judge(sent(frame(name)))[1] for _ in range(4)] for name in ("blocked", "allowed", "more")
            }
            passed, over = Verdict.PASS, Verdict.DEVICE_RATE
            assert seen["blocked"] == [Verdict.BLOCKED] * 4 and seen["allowed"] == [passed] * 4
            assert seen["more"] == [passed] * 3 + [over]
            assert [found.judge(sent(frame(name)))[1] for name in ("one", "two") * 3] == [passed] * 4 + [over] * 2
            maps.unblock("blocked")
            assert [rule.device_id for rule in maps.rules()] == ["allowed", "more"]


def test_the_least_recently_used_source_makes_room_and_none_within_its_limit_is_dropped(filter_: LoadedFilter) -> None:
    filter_.refill(WIDE)
    filter_.maps.sources.set_limit(SourceLimit(0.001, 1))
    try:
        for number in range(0, 1 << 18, 3):  # more than the map has room for
            address = str(ip_address((11 << 24) + number))
            assert bpf.test_run(filter_.prog_fd, udp_packet(frame("many"), address))[0] == bpf.XDP_PASS
        assert filter_.judge(udp_packet(frame("many"), address))[1] == Verdict.SOURCE_RATE
    finally:
        filter_.maps.sources.set_limit(SourceLimit())
