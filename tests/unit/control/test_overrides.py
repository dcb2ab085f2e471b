"""Changes of one scope by several processes at the same time: nobody's fields are lost."""

import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from klais.config.load import Settings
from klais.control import overrides
from klais.control.overrides import MAX_TRIES, Unread, apply, overwritten, until
from klais.control.setpoints import OVERRIDE, ControlFollower
from klais.errors import ChangedMeanwhile

SCOPE = "device/dev-1"
APPENDED_MS = 1_700_000_000_000


class Topic:
    """The records in their order, and the audit."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes]] = []
        self.audit: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.lock = threading.Lock()

    def append(self, scope: str, record: dict[str, Any], before: dict[str, Any]) -> int:
        with self.lock:
            self.records.append((scope, orjson.dumps(record)))
            self.audit.append((dict(before), dict(record)))
            return len(self.records) - 1


class Message:
    """A record as the client shows it."""

    def __init__(self, offset: int, key: str, value: bytes) -> None:
        self._offset, self._key, self._value = offset, key, value

    def error(self) -> None:
        return None

    def key(self) -> bytes:
        return self._key.encode()

    def value(self) -> bytes:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 2, APPENDED_MS

    def offset(self) -> int:
        return self._offset


class Process(ControlFollower):
    """One process: it reads the topic when it is told to, and always after it has written."""

    running = True

    def __init__(self, topic: Topic, name: str) -> None:
        super().__init__(Settings())
        self._log, self.name, self.at = topic, name, 0
        self.before_writing: list[Callable[[], object]] = []

    def read(self) -> None:
        while self.at < len(self._log.records):
            self.at += 1
            self._handle(Message(self.at - 1, *self._log.records[self.at - 1]))  # type: ignore[arg-type]

    def change(self, scope: str, record: Any, before: Any, address: str = "") -> int:
        if self.before_writing:
            self.before_writing.pop(0)()
        offset = self._log.append(scope, record, before)
        self.read()
        return offset

    def sets(self, scope: str = SCOPE, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return apply(self, self, scope, changes, self.name, f"because of {self.name}")


@pytest.fixture
def pair() -> tuple[Topic, Process, Process]:
    topic = Topic()
    return topic, Process(topic, "ann"), Process(topic, "ben")


def in_force(topic: Topic, scope: str = SCOPE) -> dict[str, Any]:
    found = Process(topic, "reader")
    found.read()
    return found.record(scope) or {}


def test_a_block_and_a_limit_of_the_same_moment_are_both_in_force(pair: tuple[Topic, Process, Process]) -> None:
    topic, ann, ben = pair
    ann.before_writing = [lambda: ben.sets(block=True, until_ms=None)]
    before, after = ann.sets(rate=5.0)
    assert (before["author"], before["block"]) == ("ben", True)
    record = in_force(topic)
    assert (record["block"], record["rate"], record["author"], record["reason"]) == (True, 5.0, "ann", "because of ann")
    assert {name: record[name] for name in after} == after
    assert len(topic.records) == len(topic.audit) == 3
    ben.read()
    assert ann.record(SCOPE) == ben.record(SCOPE) == record


def test_for_the_same_field_the_later_writer_wins_and_both_are_in_the_audit(
    pair: tuple[Topic, Process, Process],
) -> None:
    topic, ann, ben = pair
    ann.before_writing = [lambda: ben.sets(block=None, unblock=True)]
    ann.sets(block=True, unblock=None)
    record = in_force(topic)
    assert record["block"] is True and "unblock" not in record
    assert [after["author"] for _, after in topic.audit] == ["ben", "ann"]


def test_what_a_third_writer_changes_meanwhile_is_not_taken_back(pair: tuple[Topic, Process, Process]) -> None:
    topic, ann, ben = pair
    carl = Process(topic, "carl")

    def carl_sees_ann() -> None:
        carl.read()
        carl.sets(block=None, unblock=True, rate=9.0)

    ann.before_writing = [lambda: ben.sets(block=True, burst=3.0), carl_sees_ann]
    ann.sets(rate=5.0)
    record = in_force(topic)
    assert (record["rate"], record["burst"], record["unblock"]) == (9.0, 3.0, True)
    ann.read()
    assert SCOPE.removeprefix("device/").encode() not in ann.blocked()


def test_gains_of_two_operators_are_merged_one_by_one(pair: tuple[Topic, Process, Process]) -> None:
    topic, ann, ben = pair
    ann.sets(OVERRIDE, gains={"kp": 1.0})
    ben.read()
    ann.before_writing = [lambda: ben.sets(OVERRIDE, gains={"ki": 2.0})]
    ann.sets(OVERRIDE, gains={"kp": 3.0})
    assert in_force(topic, OVERRIDE)["gains"] == {"kp": 3.0, "ki": 2.0}


def test_a_record_that_was_read_already_is_not_replaced_by_an_older_one(pair: tuple[Topic, Process, Process]) -> None:
    topic, ann, ben = pair
    ann.sets(rate=5.0)
    ben.read()
    ben.sets(rate=6.0)
    ann.read()
    ann.wrote(SCOPE, topic.records[0][1], 0)  # its own record, after the topic has shown it a newer one
    assert (ann.record(SCOPE) or {})["rate"] == 6.0


def test_a_writer_that_is_always_too_late_gives_up_and_names_the_other(pair: tuple[Topic, Process, Process]) -> None:
    _, ann, ben = pair
    turn = iter(range(1000))

    def ben_again() -> None:
        ben.sets(**{f"f{next(turn)}": 1})

    ann.before_writing = [ben_again] * MAX_TRIES
    with pytest.raises(ChangedMeanwhile, match="ben changes device/dev-1 at the same time") as raised:
        ann.sets(rate=5.0)
    assert raised.value.author == "ben"


def test_nothing_is_lost_between_threads_that_write_one_scope() -> None:
    topic = Topic()
    processes = [Process(topic, f"p{k}") for k in range(4)]
    start = threading.Barrier(len(processes))

    def work(process: Process) -> None:
        start.wait()
        for n in range(20):
            while True:
                try:
                    process.sets(**{process.name: n})
                    break
                except ChangedMeanwhile:
                    process.read()

    threads = [threading.Thread(target=work, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = in_force(topic)
    assert {name: record.get(name) for name in ("p0", "p1", "p2", "p3")} == dict.fromkeys(("p0", "p1", "p2", "p3"), 19)


def test_the_controller_gives_back_what_its_block_took_from_an_operator(pair: tuple[Topic, Process, Process]) -> None:
    topic, controller, ann = pair
    changes = {"block": True, "until_ms": 5}
    unread = Unread(controller, SCOPE, changes)
    ann.sets(block=None, unblock=True, rate=7.0)
    record = unread.before | changes | {"author": "controller"}
    unread.wrote(record, topic.append(SCOPE, record, {}))
    assert unread.repair() is None, "the topic is not read yet"
    controller.read()
    repaired = unread.repair()
    assert repaired is not None
    assert {name: repaired.get(name) for name in ("block", "unblock", "rate", "until_ms")} == {
        "block": True, "unblock": True, "rate": 7.0, "until_ms": 5
    }  # fmt: skip
    topic.append(SCOPE, repaired, {})
    controller.read()
    assert not controller.blocked() and not controller._watches


@pytest.mark.parametrize("others", [0, 1])
def test_a_block_that_took_nothing_is_left_alone(pair: tuple[Topic, Process, Process], others: int) -> None:
    topic, controller, ann = pair
    unread = Unread(controller, SCOPE, {"block": True})
    record = {"block": True, "author": "controller"}
    unread.wrote(record, topic.append(SCOPE, record, {}))
    ann.read()
    if others:  # who comes later knows of the block
        ann.sets(unblock=True, block=None)
    controller.read()
    assert unread.repair() == {} and not controller._watches


@pytest.mark.parametrize("others", ["blocks_again", "unblocks", "nothing", "comes_later"])
def test_a_removal_takes_nothing_from_an_operator_of_the_same_moment(
    pair: tuple[Topic, Process, Process], monkeypatch: pytest.MonkeyPatch, others: str
) -> None:
    """The controller removes its blocks that have ended; it may not have read yet what an operator has just written."""
    topic, controller, ann = pair
    monkeypatch.setattr(overrides, "now_ms", lambda: APPENDED_MS)
    topic.append(SCOPE, {"block": True, "until_ms": 5, "author": "controller"}, {})
    for process in (controller, ann):
        process.read()
    unread = Unread(controller, SCOPE, {})
    if others == "blocks_again":
        ann.sets(block=True, until_ms=7)
    elif others == "unblocks":
        ann.sets(block=None, unblock=True, until_ms=None)
    topic.records.append((SCOPE, None))  # type: ignore[arg-type]
    unread.wrote({}, len(topic.records) - 1)
    if others == "comes_later":
        ann.read()
        ann.sets(rate=5.0)
    controller.read()
    repaired = unread.repair()
    if others in ("nothing", "comes_later"):
        assert repaired == {} and not controller._watches
        return
    assert repaired is not None and repaired["author"] == "ben"
    topic.append(SCOPE, repaired, {})
    found = in_force(topic)
    assert (found.get("until_ms"), found.get("unblock")) == ((7, None) if others == "blocks_again" else (None, True))


def test_a_topic_that_is_not_read_ends_the_wait(pair: tuple[Topic, Process, Process]) -> None:
    topic, controller, _ = pair
    unread = Unread(controller, SCOPE, {"block": True})
    unread.wrote({"block": True}, topic.append(SCOPE, {"block": True}, {}))
    assert [unread.repair() for _ in range(MAX_TRIES)] == [None] * (MAX_TRIES - 1) + [{}]
    assert not controller._watches


@pytest.mark.parametrize(
    ("expected", "other", "record", "changes", "lost"),
    [
        ({}, {}, {"rate": 1}, {"rate": 1}, {}),
        ({}, {"rate": 2}, {"rate": 1}, {"rate": 1}, {}),
        ({"burst": 1}, {}, {"rate": 1, "burst": 1}, {"rate": 1}, {"burst": None}),
        ({}, {"burst": 1}, {"burst": 1}, {"rate": None}, {}),
        ({}, {"author": "x", "reason": "y", "at": 1, "scope": "z"}, {}, {}, {}),
        ({}, {"gains": {"kp": 1}}, {"gains": {"kp": 2}}, {"gains": {"kp": 2}}, {}),
    ],
)
def test_only_what_the_other_changed_counts_as_lost(
    expected: dict[str, Any],
    other: dict[str, Any],
    record: dict[str, Any],
    changes: dict[str, Any],
    lost: dict[str, Any],
) -> None:
    assert overwritten(expected, other, record, changes) == lost


@pytest.mark.parametrize(("ahead_s", "writes"), [(-3600, 2), (3600, 2), (5, 1)])
def test_a_block_ends_by_kafkas_clock_where_the_operators_clock_is_wrong(
    pair: tuple[Topic, Process, Process], monkeypatch: pytest.MonkeyPatch, ahead_s: int, writes: int
) -> None:
    """An hour behind, a block for ten minutes would have ended before it began, and its confirmation said nothing."""
    topic, ann, _ = pair
    monkeypatch.setattr(overrides, "now_ms", lambda: APPENDED_MS + 1000 * ahead_s)
    before, record = ann.sets(block=True, until_ms=until(600), rate=5.0)
    wrong_s = ahead_s if writes == 1 else 0
    assert before == {} and record["until_ms"] == APPENDED_MS + 1000 * (600 + wrong_s) == in_force(topic)["until_ms"]
    assert len(topic.records) == writes and in_force(topic)["rate"] == 5.0
    ann.sets(block=None, unblock=True, until_ms=None)  # nothing ends
    assert len(topic.records) == writes + 1
