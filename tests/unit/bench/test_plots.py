"""Plots: each committed one is what the result files give, byte for byte, and nothing is drawn without figures."""

from pathlib import Path

from bench.figures import read
from bench.kept import KeptSamples
from bench.plots import FOLDER, PLOTS, drawn, svg, write
from bench.results import kept


def test_committed_plots_are_those_of_the_result_files() -> None:
    made = drawn(KeptSamples([read(path) for path in kept()]))
    assert {path.name: path.read_text() for path in FOLDER.glob("*.svg")} == made, "run make results"


def test_a_plot_shows_its_figures_and_no_date() -> None:
    text = svg(PLOTS["herd"], {"controlled": [1000, 0.5, 10_000, 2.5], "fixed": [1000, 1.5]})
    assert "controlled" in text and "fixed" in text and "<dc:date>" not in text
    assert text != svg(PLOTS["herd"], {"controlled": [1000, 0.5, 10_000, 3.5], "fixed": [1000, 1.5]})


def test_without_results_there_is_no_plot(tmp_path: Path) -> None:
    (tmp_path / "old.svg").write_text("")
    assert write(KeptSamples([]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
