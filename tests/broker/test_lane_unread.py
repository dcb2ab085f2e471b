"""A replay that cannot restore everything: what can still be sent is sent, and each loss counts once."""

import asyncio

import pytest

from klais.worker import checkpoint, late_steps
from klais.worker.session import LaneSession, Pending
from tests.support.lanes import after, landed, lanes, live, recreate, remove, until
from tests.support.lanes import checkpoint as write_checkpoint

RARE = {"partitions": 1, "checkpoint_interval_s": 3600}  # no checkpoint but the one that a test asks for


def dies_once(monkeypatch, after: bool, lose) -> None:
    """The first session that has journalled the losses of its replay fails, before or after it sends the rest.

    Then ``lose`` is called.
    """
    send_late, run_once, calls = LaneSession.send_late, checkpoint.Checkpointer.run_once, []

    async def late(session, reader):
        calls.append(session)
        if len(calls) == 1 and not after:
            lose()
            raise RuntimeError("killed")
        await send_late(session, reader)

    async def once(self):
        if len(calls) == 1 and calls[0] is self._session:
            await self._session.pending.wait_empty()
            raise RuntimeError("killed")
        await run_once(self)

    monkeypatch.setattr(LaneSession, "send_late", late)
    monkeypatch.setattr(checkpoint.Checkpointer, "run_once", once)


async def half_sent(settings, edge, sent: int = 0, unsent: int = 5) -> None:
    """A lane with a checkpoint over ten batches; ``unsent`` more are journalled when it is dropped, and not put out.

    ``sent`` batches in between are put out without a checkpoint.
    """
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        edge.send(10, "old")
        await until(lambda: lane.session.acked_step >= 10, "first batches put out")
        await write_checkpoint(lane)
        if sent:
            edge.send(sent, "sent")
            await until(lambda: lane.session.acked_step >= 10 + sent, "more batches put out")
        lane.session.telemetry._send_some = asyncio.Event().wait
        edge.send(unsent, "unsent" * 300)
        await until(lambda: lane.session.journalled >= 10 + sent + unsent, "the others are journalled")


@pytest.mark.parametrize(("gone", "dies"), [(0, None), (2, None), (2, "before"), (2, "after"), (3, "before")])
async def test_frames_whose_own_raw_records_are_there_are_sent_whatever_else_is_gone(system, monkeypatch, gone, dies):
    """Checkpoint and first steps (the journal begins in the middle), or the raw records of the first unsent steps.

    And a session that dies when it has journalled the loss.
    """
    settings, topics, edge = system(**RARE)
    await half_sent(settings, edge)
    if dies:
        dies_once(monkeypatch, dies == "after", lambda: remove(settings, topics.raw, 10 + gone))
    if gone:
        remove(settings, topics.raw, 12)
    else:
        recreate(settings, topics.devices_changelog)
        remove(settings, topics.journal, 6)
    report = await after(settings, edge)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent - 5 * gone
    assert (report.output_lost, report.doubled, report.lost_records) == (5 * gone, 0, 0)
    if not gone:
        assert any("the counters lack their frames" in text for text in report.alarms)
    assert (await after(settings, edge)).alarms == ()


async def test_frames_that_wait_for_the_count_of_a_loss_stay_within_the_bound_of_pending_bytes(system, monkeypatch):
    """What is sent does not wait; what waits does so without its frames, which are read again."""
    settings, topics, edge = system(**RARE)
    sent, unsent = 40, 150
    await half_sent(settings, edge, sent, unsent)
    remove(settings, topics.raw, 12)
    pending, again = [], []
    add, read = Pending.add, late_steps.outputs_of_unread

    def spy_add(self, step):
        add(self, step)
        pending.append(self.bytes)

    def spy_read(step, value):
        again.append(step.record.step)
        read(step, value)

    monkeypatch.setattr(Pending, "add", spy_add)
    monkeypatch.setattr(late_steps, "outputs_of_unread", spy_read)
    limit = 1 << 20
    report = await after(settings.model_copy(update={"lane_max_pending_bytes": limit}), edge)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent
    assert (report.output_lost, report.doubled, report.lost_records) == (0, 0, 0)
    largest = 5 * 2072
    assert limit < unsent * 5 * 1800 and max(pending) <= limit + largest
    # The newest mark may be in the middle of its step.
    assert again == list(range(10 + sent, 11 + sent + unsent))
