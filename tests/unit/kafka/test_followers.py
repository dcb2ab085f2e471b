"""Threads that read a topic outlive every record on it."""

import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.kafka.flag_reader import FlagReader
from klais.kafka.follower import TopicFollower
from klais.kafka.stats import StatsFollower

ERRORS = [ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, ZeroDivisionError]
DEEP = b"[" * 900 + b"]" * 900
VALUES = [
    None, b"", b"{", b"null", b"[]", b"0", b"1e999", b"NaN", b'"\\ud800"', b"\xff\xfe", DEEP, b'{"a":' + DEEP + b"}",
    b"{}", b'{"v":1e300}', b'{"block":[]}', b'{"rate":{}}', b'{"until_ms":1e40}', b'{"until_ms":-9223372036854775809}',
    b'{"counters":[],"gauges":0,"rates":null}', b'{"kind":"incident"}', b'{"device_id":7}', b'{"flags":{"a":[1]}}',
]  # fmt: skip
KEYS = [
    None,
    b"",
    b"\xff",
    b"device/",
    b"device/a",
    b"mute/",
    b"global",
    b"incident/",
    b"incidents",
    b"\0owner",
    b"x" * 9,
]


class Record:
    """A record as the client shows it."""

    def __init__(self, key: bytes | None, value: bytes | None) -> None:
        self._key, self._value = key, value

    def error(self):
        return None

    def key(self):
        return self._key

    def value(self):
        return self._value

    def timestamp(self):
        return 2, 1_700_000_000_000

    def offset(self):
        return 7

    def partition(self):
        return 0


class Raising(TopicFollower):
    def __init__(self, error: type[Exception]) -> None:
        super().__init__(Settings(), "t", from_start=True)
        self.error, self.seen = error, 0

    def consume(self, key, value, appended_ms=None):
        self.seen += 1
        raise self.error("what it was")

    def reset(self):
        raise AssertionError


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_over_one_record_skips_that_record(error):
    follower = Raising(error)
    follower._handle(Record(b"a", b"b"))
    follower._handle(Record(b"a", b"b"))
    assert follower.seen == 2


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_over_one_flag_skips_that_record(monkeypatch, error):
    def fail(*_):
        raise error("what it was")

    monkeypatch.setattr("klais.kafka.flag_reader.read_flag", fail)
    reader = FlagReader(Settings(), {0: 0})
    reader._handle(Record(b"a", b"b"))
    batch = reader.take()
    assert (batch.flags, batch.next_offsets) == ([], {0: 8})


@pytest.mark.parametrize("make", [ControlFollower, StatsFollower])
def test_records_of_others_are_skipped_and_the_views_still_work(make):
    follower = make(Settings())
    for key in KEYS:
        for value in VALUES:
            follower._handle(Record(key, value))
    if isinstance(follower, ControlFollower):
        follower.overrides()
        assert follower.mode() and isinstance(follower.blocked(), dict)
    else:
        assert follower.newest("edge") == {}


def test_values_that_are_no_flags_are_passed_over():
    reader = FlagReader(Settings(), {0: 0})
    for value in VALUES:
        reader._handle(Record(b"a", value))
    assert reader.take().flags == []
