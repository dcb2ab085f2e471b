"""What must hold at recovery: each violation has its outcome, and outputs never swallow a new step."""

from hypothesis import given
from hypothesis import strategies as st

from klais.kafka.record_batch import Mark
from klais.worker.invariant import OutputSeen, RecoveryInputs, Violation, cut_while_live, judge, rewound


def seen(**given_):
    """All in order, unless said: 20 steps, 20 raw records, 100 records on the clean topic."""
    telemetry = OutputSeen(50, 0, 100, Mark(20, 5, 20, 1))
    fields = {
        "last_step": 20,
        "next_raw": 20,
        "newest_stamp": 20,
        "journal_passed": 50,
        "marker_journal": 10,
        "journal_end": 22,
        "raw_start": 0,
        "raw_end": 25,
        "landmarks": ((9, True),),
        "outputs": {"telemetry": telemetry},
    }
    return RecoveryInputs(**(fields | given_))


def violations(plan):
    return [finding.violation for finding in plan.findings]


def test_nothing_to_do_where_all_holds():
    plan = judge(seen())
    assert (plan.last_step, plan.rewind, plan.findings) == (20, None, ())


def test_steps_that_only_an_output_knows():
    plan = judge(seen(last_step=12, newest_stamp=12))
    assert (violations(plan), plan.last_step) == ([Violation.STEPS_MISSING], 20)


def test_steps_that_only_a_row_knows():
    plan = judge(seen(newest_stamp=31))
    assert (violations(plan), plan.last_step, plan.steps_missing) == ([Violation.STEPS_MISSING], 31, True)


def test_rows_that_the_changelog_lacks():
    plan = judge(seen(rows_missing=3))
    assert (violations(plan), plan.rewind, plan.steps_missing) == ([Violation.ROWS_MISSING], None, False)
    assert "at least 3 devices" in plan.findings[0].text
    assert judge(seen(rows_missing=-2)).findings == ()
    unsure = judge(seen(rows_missing=3, last_after_hole=30))
    assert violations(unsure) == [Violation.JOURNAL_HOLE], "the steps that cannot be read may have removed them"


def test_raw_that_ends_before_what_was_taken():
    plan = judge(seen(raw_end=19))
    assert (violations(plan), plan.rewind) == ([Violation.RAW_REPLACED], 10)


def test_raw_with_another_record_where_one_was_taken_however_long_it_is():
    plan = judge(seen(raw_end=9_000, landmarks=((3, True), (9, False))))
    assert (violations(plan), plan.rewind) == ([Violation.RAW_REPLACED], 4)


def test_an_output_that_lost_acknowledged_records_is_counted_and_one_that_was_recreated_named():
    cut = judge(seen(outputs={"telemetry": OutputSeen(100, 0, 60, Mark(11, 5))}))
    assert [(f.violation, f.lost) for f in cut.findings] == [(Violation.OUTPUT_CUT, 40)]
    new = judge(seen(outputs={"telemetry": OutputSeen(100, 0, 0)}))
    assert [(f.violation, f.lost) for f in new.findings] == [(Violation.OUTPUT_RECREATED, 0)]


def test_results_that_retention_removed_are_said_to_come_twice():
    plan = judge(seen(outputs={"telemetry": OutputSeen(50, 101, 101)}))
    assert [(f.violation, f.doubled) for f in plan.findings] == [(Violation.OUTPUT_UNKNOWN, 50)]
    assert judge(seen(journal_passed=0, outputs={"telemetry": OutputSeen(50, 101, 101)})).findings == ()


def test_a_journal_that_ends_before_the_checkpoint():
    assert violations(judge(seen(journal_end=4))) == [Violation.JOURNAL_CUT]


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.lists(st.integers(0, 100), max_size=3))
def test_a_new_step_has_a_number_above_all_that_was_ever_put_out(last, stamp, next_raw, marks):
    outputs = {str(n): OutputSeen(0, 0, 10, Mark(step, 1)) for n, step in enumerate(marks)}
    plan = judge(seen(last_step=last, newest_stamp=stamp, next_raw=next_raw, outputs=outputs))
    assert plan.last_step >= max([last, stamp, *marks])
    assert plan.steps_missing == (max([stamp, *marks, 0]) > last)


@given(
    st.lists(st.integers(0, 60), unique=True, max_size=6), st.integers(0, 50), st.integers(0, 60), st.integers(0, 60)
)
def test_a_rewind_never_passes_a_record_that_was_not_taken(offsets, cut, start, next_raw):
    """``klais_raw`` is cut at ``cut`` and grows again: landmarks below it hold, those above do not."""
    start, next_raw = min(start, cut), max(next_raw, max(offsets, default=-1) + 1)
    marks = tuple((offset, offset < cut) for offset in sorted(offsets) if offset >= start)
    for end in (cut, 1000):
        back = rewound(marks, start, end, next_raw)
        if back is not None:
            assert start <= back <= max(cut, start)
        else:
            assert all(offset < cut for offset, _ in marks) and end >= next_raw


def test_the_live_check_names_what_is_gone():
    assert cut_while_live(10, 12, 7, 9) is None
    assert "klais_raw ends at 9" in (cut_while_live(10, 9, 7, 9) or "")
    assert "an output ends at 6" in (cut_while_live(10, 12, 7, 6) or "")
