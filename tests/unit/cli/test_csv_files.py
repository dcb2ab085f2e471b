"""Files of operators: what is wrong with a CSV file is one line, never a traceback."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from klais.cli.main import main
from klais.errors import ConfigError
from klais.sim.traffic import load_trace
from klais.traffic.bases import load

LONG = "timestamp,value\n1," + "9" * 200_000 + "\n"


@pytest.mark.parametrize("command", ["score {}/a.csv", "simulate --count 1 --trace {}/a.csv", "simulate --series {}"])
def test_a_field_without_an_end(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(LONG)
    ran = CliRunner().invoke(main, command.format(tmp_path).split())
    assert isinstance(ran.exception, SystemExit) and "not CSV: field larger than field limit" in ran.output
    with pytest.raises(ConfigError, match=r"a.csv is not CSV"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("first", ["nan", "inf", "-inf", "1e300", "1764460800000"])
def test_a_timestamp_that_no_clock_shows(first: str, tmp_path: Path) -> None:
    rows = "".join(f"{i * 10.0**10 if math.isfinite(float(first)) else i},{i}\n" for i in range(3))
    (tmp_path / "a.csv").write_text(f"timestamp,value\n{rows}{first},5\n")
    ran = CliRunner().invoke(main, ["score", str(tmp_path / "a.csv")])
    assert ran.exit_code == 1 and f"timestamp '{first}' is not within the years 1 to 9999" in ran.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows with timestamp and value"),
        ("timestamp,value\n", "no rows with timestamp and value"),
        ("timestamp,value\n1,5\n\nyesterday,6\n", "line 4, 'yesterday,6': give a timestamp"),
        ("1,5\n2\n", "line 2, '2': give a timestamp"),
        ("1;5\n", "line 1, '1;5': give a timestamp"),
        ("1,5\n\x1b[31m,6\n", r"line 2, '\x1b[31m,6'"),
    ],
)
def test_a_series_that_is_none_is_named_by_its_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(text)
    ran = CliRunner().invoke(main, ["score", str(file)])
    assert ran.exit_code == 1 and said in ran.output and not file.with_suffix(".svg").exists()


def test_traces_with_and_without_time_zones(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("".join(f"2026-11-30T09:{minute}:00Z,5\n" for minute in range(10, 40)))
    trace = load_trace(str(file))
    assert trace.row_of("09:12") == trace.row_of("2026-11-30T09:12") == trace.row_of("2026-11-30T10:12+01:00") == 2
    for where in ("²", "25:00"):
        with pytest.raises(ConfigError, match="trace start"):
            trace.row_of(where)
    file.write_text("2026-11-30T09:10,5\n2026-11-30T09:11Z,5\n")
    with pytest.raises(ConfigError, match="only one of its first timestamps has a time zone"):
        load_trace(str(file))
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match="no counts"):
        load_trace(str(file))


def rows(of: list[tuple[object, object]]) -> str:
    return "".join(f"{at},{count}\n" for at, count in of)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rows([(i, 5) for i in range(200)] + [("nan", 5)]), "line 201: 'nan' is not a time"),
        (rows([(1_764_460_800_000 + 60_000 * i, 5) for i in range(200)]), "line 2: '1764460860000' is not a time"),
        (rows([(i, 5 if i < 150 else "inf") for i in range(200)]), "line 151: the count 'inf' is above"),
        (rows([(i, 5 if i < 150 else "1e300") for i in range(200)]), "line 151: the count '1e300' is above"),
        (rows([(1000, 1)] * 200), "spans 1 steps of 1 s; a trace has 120 to 40,000,000"),
        (rows([(i * i, 1) for i in range(150)] + [(1e11, 1)]), "spans 100,000,000,001 steps of 1 s"),
    ],
)
def test_a_recording_that_cannot_be_replayed_is_refused_before_the_training(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "a.csv")
    assert said in str(error.value)


def test_a_recording_of_events_is_counted_by_the_second(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,event\n" + rows([(i // 2, "x") for i in range(400)]))
    base = load(tmp_path / "a.csv")
    assert base.step_s == 1.0 and base.counts.tolist() == [2.0] * 200
