"""The judges of the anomaly scorer: NAB's score from its definition, files of flags, the fleet, and `klais score`."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cases.anomaly import flags, fleet, nab
from bench.cases.anomaly.faults import OTHER_FAULTS, VALUE_FAULTS, all_faults
from bench.cases.anomaly.kinds import normal
from bench.cases.anomaly.nab_score import LabelledFile, best, probation
from bench.cases.anomaly.resampled import corpora
from bench.cases.anomaly.second_kinds import second
from bench.cases.anomaly.third_kinds import third
from klais.cli.score import score
from klais.config.load import Settings
from klais.core.anomaly.samples import SamplesFormatError, read_samples
from klais.core.anomaly.series import score_series


def naive_score(scores, windows, threshold, fp_weight=0.11, fn_weight=1.0) -> float:
    """NAB's score of one file at one threshold, in words: each detection by itself, then each window."""
    sig = lambda y: -1.0 if y > 3 else 2 / (1 + math.exp(5 * y)) - 1  # noqa: E731
    total, found = 0.0, {}
    for i, value in enumerate(scores):
        if value < threshold or value <= 0 or i < probation(len(scores)):
            continue
        inside = [w for w in windows if w[0] <= i <= w[1]]
        if inside:
            a, b = inside[0]
            found[a] = max(found.get(a, 0.0), sig(-(b - i + 1) / (b - a + 1)) / sig(-1.0))
            continue
        before = [w for w in windows if w[1] < i]
        if before:
            a, b = max(before)
            total += fp_weight * sig((i - b) / (b - a))
        else:
            total -= fp_weight
    total += sum(found.values()) - fn_weight * (len(windows) - len(found))
    nothing = -fn_weight * len(windows)
    return 100 * (total - nothing) / (len(windows) - nothing)


def test_the_score_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = np.round(rng.random(400) ** 8, 3)
        windows = [(100, 139), (250, 280)]
        found, threshold = best({"a": LabelledFile(scores, windows)})
        every = [naive_score(scores, windows, at) for at in np.unique(scores[scores > 0])]
        assert found == pytest.approx(max(0.0, *every)) and (
            found == 0 or naive_score(scores, windows, threshold) == pytest.approx(found)
        )


def test_a_window_found_with_its_first_row_gives_100_and_silence_nothing() -> None:
    scores = np.zeros(400)
    assert best({"a": LabelledFile(scores, [(100, 139)])}) == (0.0, math.inf)
    scores[100] = 1.0
    assert best({"a": LabelledFile(scores, [(100, 139)])})[0] == pytest.approx(100.0)


def test_nab_reads_its_layout(tmp_path, capsys) -> None:
    folder = tmp_path / "data" / "art"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    x = np.round(20 + rng.normal(size=2000), 2)
    x[1500] = 90
    lines = [f"2020-01-{1 + k // 288:02d} {k % 288 // 12:02d}:{k % 12 * 5:02d}:00,{v}" for k, v in enumerate(x)]
    (folder / "a.csv").write_text("timestamp,value\n" + "\n".join(lines) + "\n")
    at = [lines[k].partition(",")[0] + ".000000" for k in (1490, 1530)]
    (tmp_path / "combined_windows.json").write_text(json.dumps({"art/a.csv": [at]}))
    assert nab.main([str(tmp_path), "--json", "--pooled"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["standard"] > 80 and found["files"] == 1
    assert {"low_fp", "low_fn", "threshold", "ns_per_value", "pooled"} <= set(found)
    assert set(corpora(nab.read(tmp_path))) >= {"orig", "irregular", "logarithm"}


def test_flags_counts_false_ones_by_kind_and_finds_faults(tmp_path, capsys) -> None:
    flags.generate(tmp_path, 1, 3.0, 300.0, 1)
    names = sorted(path.name for path in tmp_path.glob("faults/*.csv"))
    assert len(names) == len(all_faults()) == 4 * len(VALUE_FAULTS) + len(OTHER_FAULTS)
    assert flags.main([str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["by_kind"]) == set(normal(np.random.default_rng(0), 1.0, 600.0))
    assert found["recall_spike_20sd"] == 1.0 and found["flags_per_hit_spike_20sd"] <= 3
    assert found["flags_per_device_day"] < 1.0


@pytest.mark.parametrize("text", ["1.5,2\n3,4\n", "timestamp,value\n1.5,2\n3,4\n", "value,timestamp\n2,1.5\n4,3\n"])
def test_samples_are_read_with_and_without_a_header(text: str) -> None:
    found = read_samples(text.splitlines())
    assert (found.t.tolist(), found.x.tolist(), found.label) == ([1.5, 3.0], [2.0, 4.0], None)


def test_samples_have_iso_times_labels_and_holes() -> None:
    found = read_samples(["timestamp,value,label", "1970-01-01T00:00:05Z,,0", "1970-01-01 00:00:07,nan,1"])
    assert found.t.tolist() == [5.0, 7.0] and np.isnan(found.x).all() and found.label.tolist() == [False, True]
    with pytest.raises(SamplesFormatError, match="timestamp"):
        read_samples(["timestamp,value", "yesterday,1"])


def test_score_prints_sentences_and_draws(tmp_path) -> None:
    rng = np.random.default_rng(1)
    x = np.round(20 + 0.3 * rng.normal(size=1500), 2)
    x[1200] = 60
    file = tmp_path / "some <thing>.csv"
    file.write_text("timestamp,value\n" + "".join(f"{1.7e9 + 60 * k},{v}\n" for k, v in enumerate(x)))
    done = CliRunner().invoke(score, [str(file)])
    assert done.exit_code == 0, done.output
    assert "value was 60" in done.output and "1 flags" in done.output
    svg = file.with_suffix(".svg").read_text()
    assert svg.startswith("<svg ") and svg.count('class="flag"') == 1 and "some &lt;thing&gt;" in svg
    as_json = CliRunner().invoke(score, [str(file), "--json", "--svg", str(tmp_path / "x.svg")])
    assert json.loads(as_json.output.splitlines()[0])["value"] == 60.0


DEVICES = 45
Make = Callable[[np.random.Generator, float, float], dict[str, tuple[np.ndarray, np.ndarray]]]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("pause", {"fleet of frames_per_s": 1}), ("unit", {"group of t": 1}), ("site", {"group of interval_s": 1})],
)
def test_what_happens_to_a_fleet_or_a_site_is_one_incident(name: str, kinds: dict[str, int]) -> None:
    event = next(one for one in fleet.events(DEVICES) if one.name == name)
    found = fleet.run(Settings(partitions=2), DEVICES, fleet.STEADY_S, event)
    assert found["incident_kinds"] == kinds and found["false_flags"] <= 2
    assert found["flags"] == 0 if name == "pause" else found["found"] >= 0.5 * event.devices


@pytest.mark.parametrize("make", [second, third])
def test_kinds_that_the_scorer_was_not_made_with_are_flagged_once_a_month_at_most(make: Make) -> None:
    made = make(np.random.default_rng([3, 1]), 14.0, 60.0)
    flagged = [np.count_nonzero(score_series(t, x)["cause"]) / 14.0 for t, x in made.values()]
    assert len(flagged) >= 40 and np.mean(flagged) <= 0.035
