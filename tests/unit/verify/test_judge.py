"""The judge finds each planted fault, and only that one."""

import numpy as np
import pytest

from klais.core.wire.constants import Reason, encode_frame
from klais.sim import kinds
from klais.sim.columns import columns_of_frames, joined
from klais.verify.check import judge_manifest
from klais.verify.judge import judge

NONE = columns_of_frames([])


def _frames(devices=3, each=20):
    return [encode_frame(f"dev-{d}", n, b'{"t":%d}' % (100 * d + n)) for n in range(each) for d in range(devices)]


def _faults(verdict):
    return {name: getattr(verdict, name) for name in verdict.FAULTS if getattr(verdict, name)}


def test_all_landed_is_well():
    sent = columns_of_frames(_frames())
    verdict = judge(sent, sent, NONE, {})
    assert verdict.ok and (verdict.accepted, verdict.landed) == (60, 60)
    assert judge(NONE, NONE, NONE, {}).ok


def test_devices_may_interleave_in_another_way():
    frames = _frames()
    landed = columns_of_frames(sorted(frames, key=lambda frame: frame[2:18]))
    assert judge(columns_of_frames(frames), landed, NONE, {}).ok


def test_missing():
    frames = _frames()
    verdict = judge(columns_of_frames(frames), columns_of_frames(frames[:30] + frames[32:]), NONE, {})
    assert _faults(verdict) == {"missing": 2}
    assert {text.split(" (")[0] for text in verdict.examples["missing"]} == {"dev-0 #10", "dev-1 #10"}


def test_what_was_dropped_with_a_reason_is_not_missing():
    frames = _frames()
    sent, landed = columns_of_frames(frames), columns_of_frames(frames[3:])
    assert judge(sent, landed, NONE, {"device_rate": 1, "queue_full": 2}).ok
    assert _faults(judge(sent, landed, NONE, {"device_rate": 1})) == {"missing": 2}
    assert _faults(judge(sent, landed, NONE, {"device_rate": 5})) == {"overcounted": 2}


def test_dead_letters_account_for_frames():
    frames = _frames()
    sent = columns_of_frames(frames)
    assert judge(sent, columns_of_frames(frames[2:]), columns_of_frames(frames[:2]), {}).ok
    assert _faults(judge(sent, sent, columns_of_frames(frames[:2]), {})) == {"doubled": 2}


def test_doubled():
    frames = _frames()
    verdict = judge(columns_of_frames(frames), columns_of_frames([*frames[:10], frames[9], *frames[10:]]), NONE, {})
    assert _faults(verdict) == {"doubled": 1}
    assert verdict.examples["doubled"][0].startswith("dev-0 #3")


def test_a_repeat_is_to_be_dropped_as_duplicate():
    frames = _frames()
    sent = columns_of_frames([*frames, frames[-1]])
    landed = columns_of_frames(frames)
    assert judge(sent, landed, NONE, {"duplicate": 1}).ok
    assert judge(sent, landed, NONE, {"repeated_batch": 1}).ok
    assert _faults(judge(sent, landed, NONE, {})) == {"missing": 1}
    assert _faults(judge(sent, sent, NONE, {})) == {"repeated": 1}


def test_a_frame_wrongly_dropped_as_duplicate():
    frames = _frames()
    verdict = judge(columns_of_frames(frames), columns_of_frames(frames[1:]), NONE, {"duplicate": 1})
    assert _faults(verdict) == {"wrong_duplicates": 1}


def test_invented():
    frames = _frames()
    other = encode_frame("dev-1", 99, b"{}")
    verdict = judge(columns_of_frames(frames), columns_of_frames([*frames, other]), NONE, {})
    assert _faults(verdict) == {"invented": 1}
    assert verdict.examples["invented"][0].startswith("dev-1 #99")


def test_a_changed_payload_is_missing_and_invented():
    frames = _frames()
    changed = [encode_frame("dev-0", 0, b'{"t":0.0}'), *frames[1:]]
    assert _faults(judge(columns_of_frames(frames), columns_of_frames(changed), NONE, {})) == {
        "missing": 1,
        "invented": 1,
    }


def test_swapped_frames_of_one_device():
    frames = _frames(devices=1)
    frames_landed = [*frames[:5], frames[6], frames[5], *frames[7:]]
    verdict = judge(columns_of_frames(frames), columns_of_frames(frames_landed), NONE, {})
    assert _faults(verdict) == {"out_of_order": 1}
    assert verdict.examples["out_of_order"][0].startswith("dev-0 #5")


def test_order_is_that_of_the_staging_topic_not_of_the_sequence():
    frames = _frames(devices=1)
    late = [*frames[:5], frames[6], frames[5], *frames[7:]]
    assert judge(columns_of_frames(late), columns_of_frames(late), NONE, {}).ok
    assert _faults(judge(columns_of_frames(late), columns_of_frames(frames), NONE, {})) == {"out_of_order": 1}


def test_of_a_repeated_frame_any_one_may_land():
    a, b, c = _frames(devices=1, each=3)
    sent = columns_of_frames([a, b, a, c])
    for landed in ([a, b, c], [b, a, c]):
        assert judge(sent, columns_of_frames(landed), NONE, {"duplicate": 1}).ok


def test_a_verdict_reads_well():
    frames = _frames()
    verdict = judge(columns_of_frames(frames), columns_of_frames(frames[1:]), NONE, {})
    assert "missing 1" in str(verdict) and "dev-0 #0" in str(verdict)
    assert verdict.public()["ok"] is False


def _sent(frames, kind):
    columns = columns_of_frames(frames)
    columns.reason[:] = kind
    return columns


def _dead(frames, reasons):
    return _sent(frames, reasons)


def test_a_manifest_with_all_faults_landed_as_it_should():
    good, broken = _frames(), encode_frame("dev-0", 20, b'{"t":')
    sent = _sent([*good, broken, good[-1]], [kinds.GOOD] * 60 + [Reason.BAD_JSON, kinds.DUPLICATE])
    verdict = judge_manifest(sent, columns_of_frames(good), _dead([broken], [Reason.BAD_JSON]))
    assert verdict.ok(strict=True)
    assert (verdict.sent, verdict.good, verdict.landed, verdict.malformed, verdict.malformed_dead) == (62, 60, 60, 1, 1)


@pytest.mark.parametrize(
    "fault, landed, dead",
    [
        ("doubled", lambda g, b: [*g, g[-1]], lambda g, b: ([b], [Reason.BAD_JSON])),
        ("malformed_landed", lambda g, b: [*g, b], lambda g, b: ([], [])),
        ("invented", lambda g, b: [*g, encode_frame("dev-0", 77, b"{}")], lambda g, b: ([], [])),
        ("out_of_order", lambda g, b: [g[3], g[0], g[1], g[2], *g[4:]], lambda g, b: ([], [])),
        ("wrong_reason", lambda g, b: g, lambda g, b: ([b], [Reason.TOO_DEEP])),
        ("good_dead", lambda g, b: g, lambda g, b: ([g[0]], [Reason.BAD_JSON])),
    ],
)
def test_a_manifest_finds(fault, landed, dead):
    good, broken = _frames(), encode_frame("dev-0", 20, b'{"t":')
    sent = _sent([*good, broken], [kinds.GOOD] * 60 + [Reason.BAD_JSON])
    verdict = judge_manifest(sent, columns_of_frames(landed(good, broken)), _dead(*dead(good, broken)))
    assert {name for name in verdict.NEVER if getattr(verdict, name)} == {fault}
    assert not verdict.ok(allow_missing=100)
    assert "NOT OK" in verdict.table(False)


def test_a_manifest_finds_missing_and_allows_as_many_as_asked():
    good = _frames()
    sent = _sent(good, kinds.GOOD)
    verdict = judge_manifest(sent, columns_of_frames(good[2:]), NONE)
    assert verdict.missing == 2
    assert verdict.ok(allow_missing=2) and not verdict.ok(allow_missing=1)


def test_malformed_frames_must_be_dead_letters_only_when_strict():
    broken = encode_frame("dev-0", 20, b'{"t":')
    verdict = judge_manifest(_sent([broken], [Reason.BAD_JSON]), NONE, NONE)
    assert verdict.ok() and not verdict.ok(strict=True)


def test_records_of_other_devices_are_left_out_of_a_manifest():
    good, other = _frames(), encode_frame("stranger", 0, b"{}")
    verdict = judge_manifest(_sent(good, kinds.GOOD), columns_of_frames([other, *good]), columns_of_frames([other[:9]]))
    assert verdict.ok(strict=True)


def test_columns_join_and_take():
    a, b = columns_of_frames(_frames(each=2)), columns_of_frames(_frames(each=1))
    both = joined([a, b])
    assert both.count == 9
    assert (both.take(np.arange(6, 9)).hashes == b.hashes).all()
    assert joined([]).count == 0
    assert len(set(both.device_keys().tolist())) == 3
