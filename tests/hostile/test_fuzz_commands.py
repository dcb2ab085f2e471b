"""What commands read that others wrote: dead letters, ledgers, journals, taps. A result, or a named error."""

import numpy as np
import orjson
import pytest

from klais.cli.output import writer
from klais.cli.redrive import Report
from klais.cli.tap import KEYS, SHOWN, for_people, is_sample
from klais.cli.what_if import Found, _words, draw
from klais.config.load import Settings
from klais.core.lane.journal import encode_step
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.kafka.reader import RawRecord
from klais.redrive.dead_letters import check, dead_letters_of, without_trailing_nul
from klais.redrive.ledger import Ledger
from klais.system.moments import clock_of
from klais.verify.whatif import Courses, Question, Stretch, step_of
from tests.hostile.cases import CASES, changed, mutated, rng, shown
from tests.hostile.test_fuzz_records import batches
from tests.support.lane import T0_NS, bounds, limits

S = 1_000_000_000


def stretch() -> list[tuple[bytes, bytes]]:
    """Raw records, and the journal's record of each."""
    state, out = LaneState(hash_key=Settings().frame_hash_key), []
    for offset, value in enumerate(batches()):
        step = take_raw(state, offset, value, limits(rate=5.0, burst=3.0), bounds(blocked=(b"b",)), T0_NS + offset * S)
        out.append((value, encode_step(step.record)))
    return out


def test_a_stretch_with_odd_records_has_an_answer() -> None:
    """The journal may name other frames, times and limits than the raw records have."""
    random, some = rng("what-if"), stretch()
    others = [part for pair in some for part in pair]
    applied = 0
    for turn in range(max(20, CASES // 4000)):
        question = Question(Settings(), frozenset({"dam_max_rate"} if turn % 2 else ()))
        courses = Courses(question, Stretch(0, turn % 2, len(some), 0, 0))
        given = []
        try:
            for offset, (raw, journal) in enumerate(some):
                value = raw if random.random() < 0.7 else mutated(random, raw, others, 2)
                record = journal if turn == 0 or random.random() < 0.5 else mutated(random, journal, others, 2)
                given.append((value, record))
                found = step_of(record)
                courses.take(offset, value, found)
                applied += found is not None
            answer = Found([courses.end()])
            orjson.dumps([answer.reasons(), answer.devices(5), answer.seconds(), _words(answer, question)])
            if answer.seconds():
                draw(answer)
        except Exception as error:
            raise AssertionError([(value.hex(), record.hex()) for value, record in given]) from error
    assert applied


def header(random: np.random.Generator, good: bytes) -> bytes | None:
    odd = [None, b"", b"-1", b"9" * 30, b"\xff", b"\x1b[31m", b"65535", b"1e9", "²".encode(), b"lane", b"poison"]
    return good if random.random() < 0.6 else odd[int(random.integers(len(odd)))]


def test_odd_dead_letters_stay_where_they_are() -> None:
    random, seeds = rng("dead_letters"), batches()
    verdicts = set()
    for turn in range(max(60, CASES // 500)):
        value = seeds[turn % len(seeds)] if turn < len(seeds) else mutated(random, seeds[turn % len(seeds)], seeds, 3)
        reason = (b"poison", b"bad_json", b"corrupt_batch", b"too_short")[turn % 4]
        good = {"reason": reason, "stage": b"lane", "edge": b"1", "ts": b"1700000000000"}
        headers = tuple((name, header(random, text)) for name, text in good.items())
        try:
            dead_letters = dead_letters_of(0, RawRecord(turn, b"k", value, headers), bool(turn % 2))
            found = check([without_trailing_nul(dead_letter) for dead_letter in dead_letters], bool(turn % 3), 3)
            verdicts |= {dead_letter.verdict for dead_letter in found}
            for form in ("table", "json", "csv"):
                for listed in (True, False):
                    report = Report(listed, form)
                    report.add(found[:3])
                    report.end()
        except Exception as error:
            raise AssertionError(shown(value), headers) from error
    assert {"", "foreign"} <= verdicts


BATCH = {
    "phase": "batch",
    "to": 1,
    "edge": 65_520,
    "boot": 7,
    "number": 1,
    "strip_nul": False,
    "dead_letters": [[0, 5, 0, "a"]],
}


def test_an_odd_ledger_is_passed_over() -> None:
    random = rng("ledger")
    outcomes = set()
    for turn in range(max(100, CASES // 200)):
        ledger = Ledger()
        ledger.add(b"redrive/r", orjson.dumps({"after": {"phase": "begin"}}))
        wrong = {"after": BATCH} if turn == 0 else changed(random, {"after": BATCH})
        ledger.add(b"redrive/\xff" if turn % 5 == 4 else b"redrive/r", orjson.dumps(wrong))
        assert all(0 <= number < 1 << 63 for place in ledger.done for number in place)
        outcomes.add(bool(ledger.done))
    assert outcomes == {True, False}


FRAME = {
    **{"ts": 1_700_000_000_000, "partition": 0, "device_id": "a", "seq": 1, "verdict": "passed", "reason": None},
    **{"flagged": False, "bytes": 30, "edge": 1, "source": None, "payload": {"t": 1}},
}
SAMPLE = {"matched": 3, "frames": [FRAME]}


def test_odd_samples_of_a_tap_are_shown_or_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    random, outcomes = rng("taps"), [0, 0]
    assert is_sample(SAMPLE)
    for _ in range(max(200, CASES // 400)):
        found = orjson.loads(orjson.dumps(changed(random, SAMPLE)))
        outcomes[right := isinstance(found, dict) and is_sample(found)] += 1
        if right:
            rows = [{"time": clock_of(row["ts"]), **row} for row in found["frames"]]
            for form in ("jsonl", "csv"):
                writer(form, SHOWN, KEYS).write(rows)
            writer("table", SHOWN, KEYS).write([for_people(row) for row in rows])
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines()) and all(outcomes)
