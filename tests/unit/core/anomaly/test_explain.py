"""The sentence of a flag: what was seen, expected and why, how unusual, since when, how often before."""

import pytest

from klais.core.anomaly.explain import FlagFacts, explain
from klais.core.anomaly.record import COUNTER, Cause, age_code_of, age_s

DAY = age_code_of(86_400.0)
HALF_DAY = age_code_of(43_200.0)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            FlagFacts("t", Cause.HOUR, 45.2, 21.3, 8.0, 0.4, DAY, 0),
            ("45.2", "21.3", "time of the day", "4,096", "never"),
        ),
        (FlagFacts("t", Cause.LEVEL, 5.0, 1.0, 6.0, 0.5, DAY, 1), ("5", "1", "usual level", "flagged 1 time before")),
        (FlagFacts("t", Cause.JUMP, 5.0, 1.0, 6.0, 0.5, DAY, 2), ("the value before", "flagged 2 times before")),
        (FlagFacts("e", Cause.LEVEL | COUNTER, 9.0, 1.0, 6.0, 0.5, DAY, 0), ("grew by 9 a second", "about 1 ±")),
        (
            FlagFacts("t", Cause.STUCK, 21.5, 21.5, 30.0, 60.0, HALF_DAY, 0),
            ("did not change for 11.8 h", "within 60 s"),
        ),
        (FlagFacts("e", Cause.STUCK | COUNTER, 7.0, 7.0, 30.0, 60.0, HALF_DAY, 0), ("did not grow for 11.8 h",)),
        (FlagFacts("interval_s", Cause.INTERVAL, 180.0, 60.0, 7.0, 0.1, 0, 0), ("less often", "3 min", "60 s")),
        (FlagFacts("interval_s", Cause.INTERVAL, 20.0, 60.0, 7.0, 0.1, 0, 0), ("more often", "20 s", "60 s")),
        (FlagFacts("interval_s", Cause.SILENCE, 7200.0, 60.0, 100.0, 60.0, 0, 0), ("nothing for 2 h", "every 60 s")),
        (FlagFacts("t", Cause.ABSENT, 0.0, 0.0, 3.0, 0.0, 0, 0, "text"), ("t was text in 3 frames in a row",)),
        (FlagFacts("t", Cause.ZSCORE, 80.0, 21.4, 8.2, 1.0, 0, 0), ("+8.2 standard deviations",)),
        (FlagFacts("t", Cause.ZSCORE, -80.0, 21.4, 8.2, 1.0, 0, 0), ("-8.2 standard deviations",)),
        (FlagFacts("t", Cause.DRIFT, 45.2, 21.3, 0.0, 0.4, DAY, 0), ("45.2", "moving away for hours", "21.3 ± 0.4")),
        (FlagFacts("t", Cause.NOISE, 0.9, 0.2, 0.0, 0.9, DAY, 0), ("about 0.9 from row to row", "hour", "0.2")),
        (FlagFacts("t", 31, 80.0, 21.4, 8.2, 1.0, DAY, 255), ("80", "21.4", "255 or more times")),
    ],
)
def test_a_flag_says_what_its_numbers_are(facts: FlagFacts, words: tuple[str, ...]) -> None:
    text = explain(facts)
    assert all(word in text for word in words), text
    assert text.count(".") >= 1 and text.endswith(".") and len(text) < 300


def test_time_spans_come_back_within_five_percent() -> None:
    for seconds in (1.0, 7.0, 60.0, 3600.0, 86_400.0, 3e7):
        assert age_s(age_code_of(seconds)) == pytest.approx(seconds, rel=0.05)


def test_a_flag_of_a_type_says_the_day_if_it_is_not_today_and_no_exact_number_that_was_not_counted() -> None:
    at_ns = 1_764_583_200_000_000_000  # 2025-12-01 10:00 UTC
    facts = FlagFacts(
        "type", Cause.IMPERSONATION, 1.0, 2.0, 24.0, 30.0, age_code_of(3600.0), 0, "camera", "lamp", at_ns
    )
    assert "since 08:57 UTC" in explain(facts) and "in 30 sampled frames" in explain(facts)
    facts = FlagFacts("type", Cause.IMPERSONATION, 1.0, 2.0, 24.0, 250.0, DAY, 0, "camera", "lamp", at_ns)
    assert "since 2025-11-30 " in explain(facts) and "in 250 or more sampled frames" in explain(facts)
