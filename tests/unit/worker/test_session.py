"""A session belongs to one life of a lane: what it holds goes with it, though the collector is kept away from it."""

import gc
import time
import weakref
from types import SimpleNamespace

from klais.config.load import Settings
from klais.core.lane.state import LaneState
from klais.kafka.fenced import FencedSender, ProducerIdentity
from klais.kafka.topics import Topics
from klais.worker.checkpoint import Checkpointer
from klais.worker.intake import Raw
from klais.worker.invariant import RecoveryPlan
from klais.worker.lane import Lane, tune_garbage_collector
from klais.worker.limits import LaneLimits
from klais.worker.outputs import Telemetry
from klais.worker.quarantine import Quarantine
from klais.worker.refused_records import RefusedRecords
from klais.worker.session import STUCK_S, LaneSession, RecoveredState, Senders
from klais.worker.tap import Taps
from klais.worker.watch import Watch
from tests.support.lane import batch, frames

SETTINGS = Settings(lane_max_pending_bytes=1 << 20)
TOPICS = Topics.of(SETTINGS)


def make_session() -> LaneSession:
    context = SimpleNamespace(
        settings=SETTINGS,
        topics=TOPICS,
        limits=LaneLimits(SETTINGS, None),
        on_step=lambda s: None,
        on_sent=lambda s: None,
        on_landed=lambda s: None,
        taps=Taps(),
    )
    topics = (TOPICS.journal, TOPICS.telemetry, TOPICS.anomalies, TOPICS.dead_letter)
    topics += (TOPICS.devices_changelog, TOPICS.profiles_changelog)
    senders = Senders(*(FencedSender(None, ProducerIdentity(1, 0), topic, 0) for topic in topics))
    found = RecoveredState(LaneState(), None, senders, {}, {"telemetry": 0}, [], 0, 7, RecoveryPlan(0, None, ()), 0)
    return LaneSession(context, 0, found, Quarantine(0))


def test_a_closed_session_is_freed_though_it_was_frozen():
    try:
        states = []
        for _ in range(3):
            session = make_session()
            watch = Watch(session, None, None)
            parts = [Checkpointer(session, None, watch), watch]
            step = session.decide(Raw(session.state.next_raw, batch(frames(("a", 1)))))
            session.send_outputs(step)
            tune_garbage_collector()  # as when the lane goes live
            states.append(weakref.ref(session.state))
            session.close()
            del session, parts, step, watch
        assert [state() is None for state in states] == [True, True, True]  # at once, without a pass of the collector
    finally:
        gc.unfreeze()


async def test_a_lane_that_is_dropped_lets_go_of_its_session():
    context = SimpleNamespace(settings=SETTINGS, topics=TOPICS, consumer=None)
    lane, session = Lane(context, 0), make_session()
    lane.session, lane.checkpointer = session, Checkpointer(session, None, Watch(session, None, None))
    state = weakref.ref(session.state)
    session.close()
    del session
    await lane.stop()
    assert state() is None


def test_the_topic_that_has_accepted_nothing_for_the_longest_time_is_named():
    """The lane waits without an error, so nothing else would say why its frames do not land."""
    session, now_s = make_session(), time.monotonic()
    session.senders.telemetry.since_s = now_s - STUCK_S / 2
    assert session.alarms == ()
    session.senders.anomalies.since_s, session.senders.anomalies.why = now_s - 2 * STUCK_S, "NotEnoughReplicasError()"
    (text,) = session.alarms
    assert f"{TOPICS.anomalies}/0 for 30 s (NotEnoughReplicasError())" in text and "klais topics check" in text


def test_a_defect_that_suppresses_outputs_breaks_the_conservation_check():
    session = make_session()
    session.begin_live()
    step = session.decide(Raw(0, batch(frames(("a", 1), ("b", 1)))))
    assert session.unsent == 0  # pending
    session.pending.settle(step.record.step)  # "acknowledged", though nothing was sent
    assert session.unsent == 2


class Acknowledging:
    """A sender whose batches are acknowledged at once."""

    topic = "iot_telemetry"

    async def send(self, _writer) -> int:
        return 0


async def test_each_batch_of_a_step_tells_once_how_long_it_was_on_its_way():
    landed: list[float] = []
    session = make_session()
    refused_records = RefusedRecords((), Quarantine(0), lambda aside: None)
    rest = (Acknowledging(), None, lambda: None, lambda s: None, 7, "telemetry", refused_records)
    output = Telemetry(*rest, on_landed=landed.append)
    now_ns = time.time_ns()
    for number, age_s in enumerate((5, 3600, -60)):  # the last one's edge has a clock that is ahead
        value = batch(frames(*((f"d-{k}", number) for k in range(50))), number, now_ns - age_s * 10**9)
        output.put(session.decide(Raw(session.state.next_raw, value)))
    await output._send_some()
    assert output.records == 150 and len(landed) == 3
    assert 5 <= landed[0] < 3600 <= landed[1] and landed[2] == 0.0
