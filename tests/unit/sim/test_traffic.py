"""Schedules, traces and series."""

import math
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson
import pytest

from klais.errors import ConfigError
from klais.sim.traffic import UNPACED, SteadyRate, Trace, TraceReplay, load_series, load_trace, nasa_trace
from tests.support.needs import need_data

START = datetime(2026, 1, 1)


def test_a_steady_rate_is_steady():
    rate = SteadyRate(1000.0)
    assert [rate.due(s) for s in (0, 0.001, 0.0015, 1, 30)] == [0, 1, 1, 1000, 30_000]
    assert rate.time_of(1500) == 1.5
    assert SteadyRate(math.inf).due(0) == UNPACED


def test_a_trace_is_replayed_evenly_within_its_steps_and_starts_again():
    replay = TraceReplay(Trace(np.array([10.0, 0.0, 30.0]), 1.0, START))
    assert [replay.due(s) for s in (0, 0.5, 1, 1.9, 2, 2.5, 3, 3.5, 6)] == [0, 5, 10, 10, 10, 25, 40, 45, 80]
    assert [replay.time_of(n) for n in (0, 5, 25, 40)] == pytest.approx([0, 0.5, 2.5, 3])


def test_scale_start_and_speed():
    replay = TraceReplay(Trace(np.array([10.0, 0.0, 30.0]), 1.0, START), scale=2.0, row=2, speed=10.0)
    assert [replay.due(s) for s in (0.05, 0.1, 0.2, 0.3)] == [30, 60, 80, 80]


def test_a_trace_without_frames_is_refused():
    with pytest.raises(ConfigError, match="less than one frame"):
        TraceReplay(Trace(np.array([0.0, 0.0]), 1.0, START))


def test_places_in_a_trace():
    trace = nasa_trace()
    assert [trace.row_of(w) for w in ("0", "77", "09:40", "09:40:01", "1995-07-13 23:59:59")] == [
        0, 77, 34_800, 34_801, 86_399
    ]  # fmt: skip
    for wrong in ("86400", "25:00", "1995-07-14 00:00:00", "noon"):
        with pytest.raises(ConfigError, match="trace start"):
            trace.row_of(wrong)


def test_the_shipped_trace_is_the_launch_day():
    trace = nasa_trace()
    assert (len(trace.counts), trace.counts.sum(), trace.counts.max()) == (86_400, 134_203, 20)
    assert (trace.step_s, trace.start) == (1.0, datetime(1995, 7, 13))


def test_the_shipped_trace_equals_its_source():
    source = load_trace(str(need_data() / "traffic" / "nasa_1995-07-13_sts70_launch_day_1s.csv"))
    shipped = load_trace("nasa")
    assert (source.counts == shipped.counts).all()
    assert (source.step_s, source.start) == (shipped.step_s, shipped.start)


def test_a_trace_of_minutes_keeps_its_step(tmp_path):
    (tmp_path / "minutes.csv").write_text("1995-07-01 00:00:00,32\n1995-07-01 00:01:00,40\n1995-07-01 00:02:00,7\n")
    assert load_trace(str(tmp_path / "minutes.csv")).step_s == 60.0


def sent_as_recorded(folder: Path, number: int) -> bool:
    """Whether the series of the file with this number (in order of their paths) has exactly the recorded values."""
    series = load_series(folder)
    path = sorted(folder.rglob("*.csv"))[number]
    recorded = [float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]]
    payloads = series.payloads.tobytes()
    rows = range(series.first[number], series.first[number + 1])
    return [orjson.loads(payloads[series.starts[r] : series.starts[r + 1]])["value"] for r in rows] == recorded


def test_series_are_sent_as_recorded(tmp_path):
    (tmp_path / "inner").mkdir()
    for number, name in enumerate(("b", "inner/a", "c")):
        rows = "".join(f"2026-01-01,{(k + 1) * 0.1 * 10 ** (7 * number - 7)!r}\n" for k in range(50 + number))
        (tmp_path / f"{name}.csv").write_text("timestamp,value\n" + rows)
    assert all(sent_as_recorded(tmp_path, number) for number in range(3))


def test_recorded_series_are_sent_as_recorded():
    folder = need_data() / "nab"
    series = load_series(folder)
    assert len(series.ids) == len(set(series.ids)) == 38
    assert all(1 <= len(name) <= 16 for name in series.ids)
    assert sent_as_recorded(folder, 3)


def test_a_csv_trace_with_and_without_header(tmp_path):
    rows = "2026-01-01 00:00:00,5\n2026-01-01 00:00:10,7\n"
    for text in (rows, "timestamp,requests\n" + rows):
        (tmp_path / "t.csv").write_text(text)
        trace = load_trace(str(tmp_path / "t.csv"))
        assert (trace.counts.tolist(), trace.step_s, trace.start) == ([5.0, 7.0], 10.0, START)


@pytest.mark.parametrize(
    "text", ["", "timestamp,requests\n", "a,b\nc,d\n", "2026-01-01,-3\n2026-01-02,1\n", "2026-01-02,1\n2026-01-01,2\n"]
)
def test_a_bad_trace_is_refused_by_name(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"t\.csv"):
        load_trace(str(tmp_path / "t.csv"))


def test_a_missing_trace_is_refused():
    with pytest.raises(ConfigError, match="No such file"):
        load_trace("/nowhere/t.csv")


def test_series_ids_are_cut_and_unique(tmp_path):
    for name in ("a-very-long-sensor-name-1", "a-very-long-sensor-name-2", "täglich-gemessen-x", "kurz"):
        (tmp_path / f"{name}.csv").write_text("timestamp,value\n2026-01-01,1.5\n2026-01-01,\n2026-01-01,nan\n")
    series = load_series(tmp_path)
    assert series.ids == [b"a-very-long-sens", b"a-very-long-se~2", b"kurz", "täglich-gemesse".encode()]
    assert series.payloads.tobytes() == b'{"value":1.5}' * 4


def test_a_folder_without_series_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no \*\.csv"):
        load_series(tmp_path)
    (tmp_path / "x.csv").write_text("timestamp,value\n")
    with pytest.raises(ConfigError, match=r"x\.csv"):
        load_series(tmp_path)
