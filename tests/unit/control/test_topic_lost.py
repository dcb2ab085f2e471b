"""``klais_control`` was created again or lost its tail: what was read stays in force, and is known to be missing."""

import time

import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.system.clock import LATEST_MS
from tests.unit.kafka.test_followers import Record

PAST, FUTURE = 1, LATEST_MS - 1


def follower(**records: bytes) -> ControlFollower:
    made = ControlFollower(Settings())
    for scope, value in records.items():
        made.consume(scope.replace("__", "/"), value)
    return made


def test_all_records_stay_in_force_until_the_new_topic_has_one_of_their_scope() -> None:
    control = follower(device__a=b'{"block":true}', device__b=b'{"rate":5}', override=b'{"mode":"manual","rate":7}')
    control.reset()
    assert set(control.missing()) == {"device/a", "device/b", "override"}
    assert (set(control.blocked()), set(control.device_limits()), control.rate(1.0)) == ({b"a"}, {b"b"}, 7.0)
    control.consume("device/a", b'{"block":true}')  # the same again
    control.consume("device/b", None)
    assert set(control.missing()) == {"override"} and control.device_limits() == {}


@pytest.mark.parametrize(
    ("scope", "value", "missing"),
    [
        ("device/a", b'{"block":true,"until_ms":%d}' % PAST, False),
        ("device/a", b'{"block":true,"until_ms":%d}' % FUTURE, True),
        ("device/a", b'{"block":true,"until_ms":%d,"rate":5}' % PAST, True),
        ("device/a", b'{"block":true,"rate":5,"limits_until_ms":%d}' % PAST, True),
        ("device/a", b'{"rate":5,"limits_until_ms":%d}' % PAST, False),
        ("device/a", b'{"unblock":true}', True),  # else the controller may block it by itself
        ("device/a", b'{"forget_ms":5}', True),
        ("override", b'{"rate":5,"until_ms":%d}' % PAST, False),
        ("mute/device/a", b'{"mute":true}', True),
        ("incidents", b"{}", True),
        ("global", b'{"rate":5}', True),  # by an operator
        ("global", b'{"rate":5,"mode":"auto"}', False),  # the next decision replaces it
    ],
)
def test_only_what_has_an_effect_is_missing(scope: str, value: bytes, missing: bool) -> None:
    control = follower()
    control.consume(scope, value)
    control.reset()
    assert bool(control.missing()) == missing
    assert control.record(scope) is not None


def test_a_block_without_end_is_shown_whatever_the_end_of_the_limits() -> None:
    control = follower(device__a=b'{"block":true,"rate":5,"limits_until_ms":1}', device__b=b'{"rate":5,"until_ms":1}')
    assert [each["scope"] for each in control.overrides()] == ["device/a", "device/b"]


def test_the_problem_comes_after_a_while_and_names_the_most_important_records_first(monkeypatch) -> None:
    control = follower(mute__device__x=b'{"mute":true}', device__a=b'{"block":true}', override=b'{"rate":7}')
    control.reset()
    assert control.problem() is None, "the leader writes them again within seconds"
    now_s = time.monotonic()
    monkeypatch.setattr("klais.control.setpoints.time.monotonic", lambda: now_s + 60)
    text = control.problem() or ""
    assert "lacked 3" in text and "(override, device/a, mute/device/x)" in text and "restart it" in text
    control.reset()
    assert "for 60 s" in (control.problem() or ""), "since the first time"


class At(Record):
    def __init__(self, offset: int) -> None:
        super().__init__(b"device/d%d" % offset, b'{"block":true}')
        self._at = offset

    def offset(self) -> int:
        return self._at


class Fetched:
    """A client whose newest fetch found this end offset."""

    def __init__(self, end: int, low: int = 0) -> None:
        self.end, self.low = end, low

    def get_watermark_offsets(self, place, cached=False, timeout=0.0):
        return (-1001 if cached else self.low, self.end)


def test_a_client_that_goes_back_to_an_earlier_offset_reads_a_topic_that_lost_records(monkeypatch) -> None:
    control = ControlFollower(Settings())
    for offset in (0, 1, 2, 0, 1):
        control._handle(At(offset))
    assert control.replacements == 1
    assert set(control.missing()) == {"device/d2"} and set(control.blocked()) == {b"d0", b"d1", b"d2"}


def test_a_topic_that_ends_before_what_was_read_is_read_again(monkeypatch) -> None:
    control = ControlFollower(Settings())
    monkeypatch.setattr(control._identity, "replaced", lambda: False)
    control._handle(At(4))
    assert not control._replaced(Fetched(5)) and not control._replaced(Fetched(-1001))
    assert control._replaced(Fetched(4)) and set(control.missing()) == {"device/d4"}


def test_a_topic_whose_beginning_was_removed_is_read_again(monkeypatch) -> None:
    monkeypatch.setattr("klais.kafka.follower.LOW_S", 0.0)
    control = ControlFollower(Settings())
    monkeypatch.setattr(control._identity, "replaced", lambda: False)
    control._handle(At(4))
    assert not control._replaced(Fetched(5)) and not control._replaced(Fetched(5))
    assert control._replaced(Fetched(5, 5)) and set(control.missing()) == {"device/d4"}
    control._handle(At(5))
    assert not control._replaced(Fetched(6, 5)), "it is the first offset that is known now"
