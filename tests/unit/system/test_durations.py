"""Durations as people write them."""

import pytest

from klais.system.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("2d", 172_800),
        ("7", 7),
        ("250us", 0.00025),
        ("1M", 60),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-3s", "3 weeks", "1h30", "nan", "inf", "1,5s", "30sm", "1..5s"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="write 30s, 2m"):
        parse_duration(text)


@pytest.mark.parametrize("seconds", [0.001, 0.25, 1, 59, 60, 61, 3600, 86_400, 90_061])
def test_what_is_written_reads_back(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)
