"""What lies on ``klais_raw`` and how it is read: a log that was replaced, records that nobody delivers, holes."""

from klais.worker import watch
from tests.support.lanes import FAST, caught_up, ends, figures, landed, lanes, live, recreate, until


async def test_records_that_the_consumer_does_not_deliver_are_fetched(system, monkeypatch):
    """As where the group's offset lies ahead of the log: what the lane was to read lies before it."""
    monkeypatch.setattr(watch, "WATCH_S", 0.05)
    settings, _, edge = system(**FAST)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(5)
        await until(lambda: lane.session.state.next_raw == 5, "taken, though nobody delivers")
        sought = lane._context.consumer.sought
        assert sought[0] == (0, 0) and sought[-1] == (0, 5)
        await caught_up(settings, lane)
        assert figures(lane).passed == edge.sent and lane.restarts == 0


async def test_a_log_that_was_replaced_and_grew_again_before_anybody_looked(system, monkeypatch):
    """The lane goes on at its offset in the new log. No checkpoint covers that, and what lies before it is taken, too:
    its batches have lower numbers than those that were taken, and are no repeats."""
    monkeypatch.setattr(watch, "WATCH_S", 3600)  # between two looks
    settings, topics, edge = system(**FAST)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        lane.intake.fetch_up_to(10)
        edge.send(10, "old")
        lane.intake.fetch_up_to(10)
        await caught_up(settings, lane)
        recreate(settings, topics.raw)
        edge.connect()
        edge.send(25, "new")
        lane.intake.fetch_up_to(25)
        await until(lambda: lane.restarts, "the loss is noticed")
        await live(lane)
        lane.intake.fetch_up_to(25)
        await caught_up(settings, lane)
        report = figures(lane)
        await live(lane)
        edge.send(5, "later")
        lane.intake.fetch_up_to(30)
        await caught_up(settings, lane)
    there = landed(settings)
    assert (len(there), sum(there.values())) == (edge.sent, edge.sent)
    assert ends(settings, topics.raw) == [(0, 30)]
    assert report.conservation.holds and (report.lost_records, report.output_lost, report.doubled) == (0, 0, 0)
