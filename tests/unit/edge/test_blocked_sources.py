"""Blocked sources at the edge: what is dropped and counted, what follows the list, and what it costs without one."""

import json
import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.edge import blocked_sources
from klais.edge.blocked_sources import POLL_S, BlockedSources
from klais.edge.spine import Spine
from klais.edge.supervisor.merge import sum_gauges
from klais.edge.tap import EdgeFilter
from klais.system.prefix import Network
from tests.unit.edge.test_auth import FORGED, with_keys
from tests.unit.edge.test_auth import build as build_signed
from tests.unit.edge.test_spine import MemorySink, balance, build

MINE, OTHER = "10.1.2.3", "10.9.9.9"


def row(address: str) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(map(int, address.split("."))) + b"\x13\x88"


def rows(senders: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(senders), np.uint8).reshape(-1, 18).copy()


def spine_of(calls: list[list[tuple[str, bytes]]], *blocked: str, **more: Any) -> tuple[Spine, MemorySink]:
    """A spine whose source gives frames with their senders."""
    spine, sink = build([[frame for _, frame in call] for call in calls], **more)
    senders = iter([[row(address) for address, _ in call] for call in calls])
    now: list[list[bytes]] = []
    fill = spine.source.fill

    def filled(wait_ns: int) -> int:
        if n := fill(wait_ns):
            now[:] = [next(senders)]
        return n

    spine.source.fill = filled  # type: ignore[method-assign]
    spine.source.sources = lambda n: rows(now[0][:n])  # type: ignore[method-assign]
    spine.blocked_sources = BlockedSources(lambda: dict.fromkeys(map(ip_network, blocked)))
    spine.blocked_sources.on_tick(1.0)
    return spine, sink


def test_frames_of_a_blocked_sender_are_counted_and_no_dead_letters_and_all_others_pass() -> None:
    good = [encode_frame(f"dev-{k}", k, b"{}") for k in range(20)]
    junk = [b"", b"xx" * 30, b"\xaa\x55" + bytes(40), b"z" * 9000]
    call = [(MINE if k % 2 else OTHER, frame) for k, frame in enumerate(good)]
    call += [(address, frame) for frame in junk for address in (MINE, OTHER)]
    spine, sink = spine_of([call], f"{MINE}/32", frame_max=5000)
    spine.round(spine.source.fill(0), 0)
    spine.drain(1.0, 1.0)
    counts = spine.counts
    assert counts.totals()["dropped"] == {
        "blocked_source": 14, "too_short": 1, "bad_magic": 1, "bad_device_id": 1, "too_long": 1,
    }  # fmt: skip
    assert counts.received == balance(counts) == len(call) and counts.unaccounted() == 0
    assert len(sink.letters) == 4, "of the other sender only"
    landed = [
        batch.frame(i) for built in sink.taken for batch in [decode_batch(built.value)] for i in range(batch.count)
    ]
    assert sorted(landed) == sorted(good[::2])
    assert spine.blocked_sources.gauges() == {"blocked_sources": 1, "source_drops": {"10.1.2.3/32": 14}}


def test_frames_of_a_blocked_sender_are_not_verified(tmp_path: Path) -> None:
    spine, sink = build_signed(with_keys(tmp_path, auth="require"), [[FORGED, encode_frame("dev-1", 1, b"{}"), b"x"]])
    spine.blocked_sources = BlockedSources(lambda: {ip_network("10.1.2.3"): None})  # the sender of that source
    spine.blocked_sources.on_tick(1.0)
    spine.round(spine.source.fill(0), 0)
    assert spine.counts.totals()["dropped"] == {"blocked_source": 3} and sink.letters == []
    assert spine.auth is not None and spine.auth.counts.sum() == 0


def test_blocked_frames_take_no_token_of_the_hosts_limit() -> None:
    call = [(MINE, encode_frame("flood", k, b"{}")) for k in range(30)] + [(OTHER, encode_frame("dev", 1, b"{}"))]
    spine, _ = spine_of([call], "10.1.0.0/16")
    spine.shedder.limit(0.001, 1.0)
    spine.round(spine.source.fill(0), 0)
    assert spine.counts.totals()["dropped"] == {"blocked_source": 30}


def test_a_tap_shows_them_as_dropped_by_a_rule() -> None:
    call = [(MINE, encode_frame("flood", 1, b"{}")), (MINE, b"junk"), (OTHER, b"junk")]
    spine, _ = spine_of([call], "10.1.0.0/16")
    taps = [spine.taps.get(wanted) for wanted in (EdgeFilter(reason="blocked_source"), EdgeFilter(verdict="malformed"))]
    spine.round(spine.source.fill(0), 0)
    ours, junk = (json.loads(tap.event()[1]) for tap in taps if tap is not None)
    assert [(row["verdict"], row["reason"]) for row in ours["frames"]] == [("dropped", "blocked_source")] * 2
    assert [(row["verdict"], row["reason"]) for row in junk["frames"]] == [("malformed", "too_short")]


def test_without_blocks_nobody_asks_for_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    spine, _ = spine_of([[(MINE, encode_frame("dev", 1, b"{}"))]])
    spine.batcher.with_sources = False

    def never(*_: object) -> None:
        raise AssertionError("a batch without blocks reads no senders")

    spine.source.sources = never  # type: ignore
    monkeypatch.setattr(blocked_sources, "mark_blocked", never)
    spine.round(spine.source.fill(0), 0)
    assert not spine.blocked_sources.active and spine.counts.by_reason.sum() == 0


class Lists:
    """What the topic and the filter of the host say."""

    def __init__(self) -> None:
        self.blocked: dict[Network, int | None] = {}
        self.allowed: tuple[Network, ...] = ()
        self.sources = BlockedSources(lambda: self.blocked, lambda: self.allowed)
        self.now_s = 0.0

    def dropped(self, *addresses: str) -> list[bool]:
        self.now_s += POLL_S
        self.sources.on_tick(self.now_s)
        reason = np.zeros(len(addresses), np.uint8)
        if self.sources.active:
            self.sources.mark(rows([row(address) for address in addresses]), reason)
        return [bool(each) for each in reason]


def test_it_follows_the_list_and_the_ends_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    lists, now_ns = Lists(), time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    assert lists.dropped(MINE) == [False]
    lists.blocked = {ip_network("10.1.0.0/16"): now_ns + 5, ip_network("10.0.0.0/8"): None, ip_network("9.0.0.0/8"): 1}
    assert lists.dropped(MINE, OTHER, "9.9.9.9", "11.1.1.1") == [True, True, False, False]
    assert lists.sources.gauges() == {"blocked_sources": 2, "source_drops": {"10.1.0.0/16": 1, "10.0.0.0/8": 1}}
    now_ns += 6  # the longer prefix is free, the shorter one is not
    assert lists.dropped(MINE) == [True]
    assert lists.sources.gauges() == {"blocked_sources": 1, "source_drops": {"10.0.0.0/8": 2}}
    lists.blocked = {}
    assert lists.dropped(MINE) == [False] and lists.sources.gauges() == {}


def test_a_block_that_a_wrong_clock_ended_is_in_force_again_when_the_clock_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists, began_ns = Lists(), time.time_ns()
    now_ns = began_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    hour, day = 3600 * 10**9, 86_400 * 10**9
    lists.blocked = {ip_network("10.1.0.0/16"): began_ns + hour}
    for later_ns, blocked in ((0, True), (day, False), (1, True), (-day, True), (hour, False), (hour - 1, True)):
        now_ns = began_ns + later_ns
        assert lists.dropped(MINE) == [blocked], later_ns


def test_a_longer_or_equal_prefix_that_the_filter_allows_passes() -> None:
    lists = Lists()
    lists.blocked = {ip_network("10.0.0.0/8"): None, ip_network("10.9.0.0/16"): None, ip_network("10.1.2.9"): None}
    lists.allowed = (ip_network("10.1.0.0/16"), ip_network("10.9.0.0/16"), ip_network("0.0.0.0/0"))
    assert lists.dropped(MINE, OTHER, "10.1.2.9", "10.2.2.2") == [False, False, True, True]
    lists.allowed = ()
    assert lists.dropped(MINE, OTHER) == [True, True]


def test_processes_of_one_edge_count_each_block_once_and_all_drops() -> None:
    each = {"blocked_sources": 2, "source_drops": {"10.0.0.0/8": 3}}
    assert sum_gauges([each, each]) == {"blocked_sources": 2, "source_drops": {"10.0.0.0/8": 6}}
