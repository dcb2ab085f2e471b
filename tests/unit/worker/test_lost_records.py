"""The leader writes again what ``klais_control`` lost, and nobody's newer change is lost by that."""

import orjson

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.worker.lost_records import LostRecords


class Topic:
    """The topic that was created again, with the term's follower, which reads it when told to."""

    def __init__(self, known: ControlFollower, most: int = 1000) -> None:
        self.known, self.control, self.most = known, ControlFollower(Settings()), most
        self.log: list[tuple[str, dict]] = []
        self.read = 0

    async def write(self, records):
        base, some = len(self.log), records[: self.most]
        self.log += some
        return base, len(some)

    def follow(self) -> None:
        for offset, (scope, record) in enumerate(self.log[self.read :], self.read):
            for follower in (self.control, self.known):
                follower._reading = follower._read = offset
                follower.consume(scope, orjson.dumps(record))
        self.read = len(self.log)


def lost(**records: dict) -> ControlFollower:
    known = ControlFollower(Settings())
    for scope, record in records.items():
        known.consume(f"device/{scope}", orjson.dumps(record))
    known.reset()
    return known


async def test_records_are_written_as_they_were_once():
    known = lost(a={"block": True, "author": "ann", "at": 5}, b={"rate": 7})
    topic = Topic(known, most=1)
    duty = LostRecords(known, topic.control)
    for _ in range(6):
        await duty.tick(topic.write)
        topic.follow()
    assert topic.log == [("device/a", {"block": True, "author": "ann", "at": 5}), ("device/b", {"rate": 7})]
    assert known.missing() == {} and topic.control._watches == []


async def test_a_record_of_the_new_topic_stays_as_it_is():
    known = lost(a={"block": True})
    topic = Topic(known)
    topic.log.append(("device/a", {"unblock": True}))
    topic.follow()
    assert await LostRecords(known, topic.control).tick(topic.write) == 0 and known.missing() == {}


async def test_an_operators_change_at_the_same_moment_is_written_again():
    known = lost(a={"block": True, "author": "ann"})
    topic = Topic(known)
    duty = LostRecords(known, topic.control)
    topic.log.append(("device/a", {"unblock": True, "author": "bob"}))  # the leader has not read it yet
    await duty.tick(topic.write)
    assert [record.get("unblock") for _, record in topic.log] == [True, None]
    for _ in range(3):
        topic.follow()
        await duty.tick(topic.write)
    topic.follow()
    assert topic.control.record("device/a")["unblock"] is True and topic.control.blocked() == {}
    assert len(topic.log) == 3


async def test_a_term_without_a_follower_of_its_process_does_nothing():
    topic = Topic(lost(a={"block": True}))
    duty = LostRecords(None, topic.control)
    await duty.begin(topic.write)
    assert await duty.tick(topic.write) == 0 and topic.log == []
