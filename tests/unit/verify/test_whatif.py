"""What-if: unchanged it gives what happened; changed limits change what they should; no frame is lost."""

from dataclasses import replace

import numpy as np
import pytest

from klais.cli.plot import compare
from klais.config.load import Settings
from klais.core.lane.journal import Limits, StepRecord, decode_step, encode_step
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, release, take_raw
from klais.verify.whatif import Answer, Courses, Question, Stretch
from tests.support.lane import T0_NS, batch, bounds, frames, limits

MS = 1_000_000
SETTINGS = Settings(partitions=1, dam_max_rate=1e6, dam_burst_size=1e6, dam_device_rate=1000, dam_device_burst=5000)
WIDE = limits(rate=1e6, burst=1e6)


def live(
    values: list[bytes], at: Limits = WIDE, limits_of: Bounds | None = None, gap_ms: int = 100
) -> list[tuple[bytes | None, StepRecord]]:
    """What a lane journals of these raw records, one each 100 ms, with releases in between."""
    state, out = LaneState(), []
    for offset, value in enumerate(values):
        now_ns = T0_NS + offset * gap_ms * MS
        out.append((value, take_raw(state, offset, value, at, limits_of or bounds(), now_ns).record))
        while (step := release(state, at, now_ns + 50 * MS, 100)) is not None:
            out.append((None, step.record))
    return [(value, decode_step(encode_step(record))) for value, record in out]


def ask(happened: list[tuple[bytes | None, StepRecord]], warm: int = 0, **changed: object) -> Answer:
    question = Question(SETTINGS.model_copy(update=changed), frozenset(changed))
    courses = Courses(question, Stretch(0, warm, 1 << 40, 0, 0))
    for value, record in happened:
        if value is None:
            courses.released(record)
        else:
            courses.take(record.raw_offset, value, record)
    return courses.end()


def stream(rounds: int = 20, devices: int = 5) -> list[bytes]:
    return [
        batch(frames(*((f"d{d}", r) for d in range(devices))), number=r, at_ns=T0_NS + r * 100 * MS)
        for r in range(rounds)
    ]


def same(answer: Answer) -> None:
    assert all(happened == would for happened, would in answer.reasons.values()), answer.reasons


def test_with_nothing_changed_it_is_what_happened() -> None:
    values = stream()
    values[3] = values[2]  # an edge that sent one twice
    values[5] = b"not ours"
    values[7] = batch([*frames(("d0", 6), ("d1", 50)), b"\xaa\x55 short", *frames(("bad", 1, b'{"t":'))], 90)
    values[9] = batch(frames(("d2", 7), ("d2", 7)), 91)  # what came in one step twice
    answer = ask(live(values, limits_of=bounds(blocked=(b"d4",))))
    same(answer)
    for reason in ("blocked", "repeated_batch", "corrupt_batch", "too_short", "bad_json", "duplicate"):
        assert answer.reasons[reason][0] > 0, reason
    assert answer.unknown == 0 and answer.records == 20
    ids, counts = answer.would.devices()
    assert ids.tolist() == [b"d0", b"d1", b"d2", b"d3"], "d4 was blocked from its first frame on, and has no row"
    assert (counts == answer.happened.devices()[1]).all()


def test_a_lower_rate_of_devices_drops_and_says_whose() -> None:
    answer = ask(live(stream()), dam_device_rate=5.0, dam_device_burst=1.0)
    happened, would = answer.reasons.get("device_rate", (0, 0))
    assert happened == 0 and would == answer.reasons["passed"][0] - answer.reasons["passed"][1] > 0
    ids, counts = answer.would.devices()
    assert counts[:, 2].sum() == would and len(ids) == 5


@pytest.mark.parametrize("rate", [3.0, 20.0, 49.0, 1000.0])
def test_a_lower_global_rate_queues_and_no_frame_is_lost(rate: float) -> None:
    answer = ask(live(stream(60)), dam_max_rate=rate, dam_burst_size=5.0)
    received, passed = answer.reasons["received"][1], answer.reasons["passed"][1]
    assert received == 300 == passed + answer.waiting
    seconds = 6.0
    assert passed <= 5 + rate * seconds + 1 and passed >= min(300, rate * (seconds - 1))
    shown = sum(int(counts[0]) for counts in answer.would.seconds.values())
    assert shown == passed, "what it draws is what it counts"


def test_what_waited_and_was_let_out_counts_on_both_sides() -> None:
    slow = limits(rate=30.0, burst=5.0)
    happened = live(stream(30), slow)
    assert any(value is None for value, _ in happened)
    answer = ask(happened)  # with the limits that were in force
    assert answer.reasons["queued"][0] > 0 and answer.reasons["queued"][1] > 0
    assert abs(answer.reasons["passed"][0] - answer.reasons["passed"][1]) <= 5
    faster = ask(happened, dam_max_rate=1e6, dam_burst_size=1e6)
    assert faster.reasons["passed"][1] == 150 and faster.reasons["queued"][1] == 0


def test_a_warm_state_knows_what_came_before() -> None:
    values = stream()
    values[10] = batch(frames(("d0", 9)), 10, T0_NS + 1000 * MS)  # the same frame once more
    happened = live(values)
    assert ask(happened[10:], 10).reasons.get("duplicate", (0, 0)) == (1, 0), "it cannot know"
    warm = ask(happened, 10)
    assert warm.reasons["duplicate"] == (1, 1) and warm.records == 10
    assert warm.would.devices()[1][:, 0].tolist() == [10, 9, 9, 9, 9]


def test_of_records_that_the_journal_lacks_only_one_side_counts() -> None:
    courses = Courses(Question(SETTINGS, frozenset()), Stretch(0, 0, 10, 0, 0))
    for offset, value in enumerate(stream(4)):
        courses.take(offset, value, None)
    other = live(stream(5))[4][1]
    courses.take(4, b"another record than the journal decided", replace(other, raw_offset=4))
    answer = courses.end()
    assert answer.unknown == 21 and answer.reasons["received"] == (0, 21)


def test_hostile_ids_stay_apart() -> None:
    odd = ["\x1b[31m", "\u202e", 'a,b"c', "x" * 16]
    answer = ask(live([batch(frames(*((name, r) for name in odd)), r) for r in range(3)]))
    ids, counts = answer.would.devices()
    assert sorted(ids.tolist()) == sorted(name.encode() for name in odd) and (counts[:, 0] == 3).all()
    same(answer)


def test_the_drawing_is_one_picture() -> None:
    t = np.arange(5.0)
    drawn = compare("<b>", t, [("passed", t, t * 2), ("dropped", t * 0, t * 0)])
    assert drawn.count("<path") == 4 and "<b>" not in drawn and "NaN" not in drawn and "nan" not in drawn
    assert "<path" not in compare("nothing", t[:0], [("passed", t[:0], t[:0])])


def test_limits_of_the_journal_hold_where_nothing_is_changed() -> None:
    found = limits(rate=7.0, burst=3.0, device_rate=2.0)
    question = Question(SETTINGS.model_copy(update={"dam_max_rate": 50.0}), frozenset({"dam_max_rate"}))
    given = question.limits(found, True)
    assert (given.rate, given.burst, given.device_rate) == (50.0, 3.0, 2.0)
    assert question.bounds(None, (b"x",)).blocked == (b"x",)
