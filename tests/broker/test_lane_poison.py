"""Records on which a lane could fail: foreign, empty, unreadable for the client, or such that a defect shows."""

from tests.support.lanes import caught_up, figures, landed, lanes, live, records, two_lanes, until
from tests.support.unreadable import write_unreadable


async def test_poison_of_all_kinds_stops_no_lane(settings_for, topics_of):
    async with two_lanes(settings_for, topics_of, 5) as it:
        settings, topics, edges, found = it.settings, it.topics, it.edges, it.lanes
        edges[0].put(None)
        edges[0].put(b"another program's record")
        edges[0].send(0)
        edges[0].send(1, at_ns=(1 << 63) - 1)
        for topic in (topics.raw, topics.journal, topics.devices_changelog, topics.dead_letter, topics.telemetry):
            await write_unreadable(settings, topic)
        for p in (0, 1):
            edges[p].send(5)
            await caught_up(settings, found[p])
        reports = [figures(found[p]) for p in (0, 1)]
        assert [found[p].restarts for p in (0, 1)] == [0, 0]
        assert [report.lost_records for report in reports] == [3, 0]
        await found[0].stop()
        async with lanes(settings) as again:  # a recovery reads past them, too
            await live(again[0])
            edges[0].send(5)
            await caught_up(settings, again[0])
            assert again[0].restarts == 0 and figures(again[0]).conservation.holds
    assert [len(landed(settings, p)) for p in (0, 1)] == [75, 50]
    reasons = [r.headers.get("reason") for r in records(settings, topics.dead_letter)]
    assert [reason for reason in reasons if reason] == [b"corrupt_batch"] * 4  # also what precedes the unreadable one
    assert all(report.conservation.holds for report in reports)


async def test_a_record_on_which_the_lane_fails_again_and_again_is_set_aside(settings_for, topics_of, monkeypatch):
    """As a defect of ours would show: one record raises, each time. Other lanes go on.

    And this one does after three.
    """
    from klais.worker import session

    decide = session.take_raw

    def defect(state, offset, value, *rest):
        if b"tripwire" in value:
            raise IndexError("a defect")
        return decide(state, offset, value, *rest)

    monkeypatch.setattr(session, "take_raw", defect)
    async with two_lanes(settings_for, topics_of, 3) as it:
        settings, topics, edges, found = it.settings, it.topics, it.edges, it.lanes
        edges[0].send(1, "tripwire")
        await until(lambda: found[0].restarts > 0, "the lane fails")
        edges[1].send(3)
        await caught_up(settings, found[1])  # while the other one fails and recovers
        edges[0].send(3)
        await caught_up(settings, found[0])
        assert (found[0].restarts, found[1].restarts) == (3, 0)
        report = figures(found[0])
    (letter,) = [r for r in records(settings, topics.dead_letter) if r.headers["reason"] == b"poison"]
    assert b"tripwire" in letter.value and letter.headers["detail"] == b"IndexError: a defect"
    assert report.poison == 5 and report.conservation.holds
    assert len(landed(settings, 0)) == edges[0].sent - 5
    async with lanes(settings, (0,)) as found:  # the journal says so, too
        await live(found[0])
        assert figures(found[0]).poison == 5
