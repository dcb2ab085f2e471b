"""A record of klais_control costs as little with a hundred thousand devices blocked as with none."""

import threading
import time

import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower, DeviceLimit
from klais.worker.limits import LaneLimits
from tests.support.work import lines_run

BLOCK = b'{"block":true,"until_ms":1900000000000,"rate":5,"forget_ms":1700000000000,"author":"a","reason":"b","at":%d}'
LINES = 200
S = 1_000_000_000


def filled(count: int) -> ControlFollower:
    """A follower that has read a block of so many devices."""
    follower = ControlFollower(Settings())
    for number in range(count):
        follower.consume(f"device/d{number}", BLOCK % number)
    return follower


def test_a_record_costs_the_same_however_many_there_are() -> None:
    """It made all mappings anew: ten thousand blocks kept an edge from starting for a minute."""
    follower = filled(2_000)
    with lines_run(LINES):
        follower.consume("device/another", BLOCK % 1)
        follower.consume("device/d7", b'{"unblock":true}')
        follower.consume("device/d8", None)
    assert len(follower.blocked()) == 1_999 and b"another" in follower.blocked()
    assert follower.blocked().keys() == follower.device_limits().keys() == follower.to_forget().keys()


def test_a_step_lists_blocked_devices_only_when_something_changed_or_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [1_700_000_000 * S]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns[0])
    follower = filled(2_000)
    follower.consume("device/ends", b'{"block":true,"until_ms":1700000060000}')
    limits = LaneLimits(Settings(), follower)
    first = limits.blocked()
    assert len(first) == 2_001
    with lines_run(LINES):
        assert limits.blocked() is first
    now_ns[0] += 61 * S
    assert set(first) - set(limits.blocked()) == {b"ends"}
    follower.consume("device/d0", None)
    assert len(limits.blocked()) == 1_999


def test_what_a_reader_got_does_not_change_under_it() -> None:
    follower = filled(3)
    blocked, records = follower.blocked(), follower.records()
    assert follower.blocked() is blocked and follower.records() is records
    follower.consume("device/d0", None)
    follower.consume("device/new", BLOCK % 1)
    assert list(blocked) == [b"d0", b"d1", b"d2"] and len(records) == 3
    assert list(follower.blocked()) == [b"d1", b"d2", b"new"]
    assert follower.device_limits()[b"new"] == DeviceLimit(5, None, None)
    follower.reset()
    assert (follower.blocked(), follower.records()) == (blocked_now := follower.blocked(), follower.records())
    assert list(blocked_now) == [b"d1", b"d2", b"new"], "in force until the new topic says otherwise"


def test_readers_in_other_threads_see_whole_mappings() -> None:
    follower, wrong, ended = filled(50), [], threading.Event()

    def read() -> None:
        while not ended.is_set():
            seen = follower.blocked()
            if sum(1 for _ in seen) != len(seen) or not 49 <= len(seen) <= 51:
                wrong.append(len(seen))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(2_000):
            follower.consume("device/x", BLOCK % number if number % 2 else None)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
