"""Result files held against each other, and the page that is made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.compare import Change
from bench.figures import BadResult, Figure, read
from bench.results import PAGE, WIDTH, kept, page

MACHINE = {"cpu": "A processor with a name of many words", "cores": 2, "kernel": "Linux 6.18", "load_1min": 0.1}
VERSIONS = {
    name: f"{k}.0.1"
    for k, name in enumerate(("klais", "numpy", "numba", "kafka", "aiokafka", "faust", "orjson", "lz4"))
}
VERSIONS["none"] = ""


def worker(us: float, least: float, greatest: float, **more: Any) -> dict[str, Any]:
    spread = {"cpu_us_per_frame": {"min": least, "median": us, "max": greatest, "repeats": 3}}
    around: dict[str, Any] = {"held_to": [], "rows": [{"x": 1}], "notes": ["a note of some words"], "took_s": 9.0}
    return {"bench": "worker", "cpu_us_per_frame": us, "spread": spread, **around, **more}


def written(folder: Path, name: str, **benches: dict[str, Any]) -> Path:
    path = folder / f"{name}.json"
    about = {
        "machine": MACHINE,
        "versions": VERSIONS,
        "commit": "abc",
        "taken_at": "2026-01-01T00:00:00Z",
        "failed": {},
    }
    path.write_text(json.dumps({**about, "benches": benches}))
    return path


@pytest.mark.parametrize(
    ("before", "after", "outside"),
    [
        (Figure(100.0), Figure(109.0), False),
        (Figure(100.0), Figure(111.0), True),
        (Figure(100.0), Figure(92.0), False),
        (Figure(100.0), Figure(90.0), True),
        (Figure(100.0, 80.0, 120.0, 3), Figure(130.0, 119.0, 140.0, 3), False),  # the repeats overlap
        (Figure(100.0, 80.0, 120.0, 3), Figure(130.0, 121.0, 140.0, 3), True),
        (Figure(100.0, 80.0, 120.0, 3), Figure(119.0), False),
        (Figure(0.0), Figure(0.0), False),
        (Figure(0.0), Figure(1.0), True),
        (Figure(1.0), Figure(0.0), True),
    ],
)
def test_outside_is_beyond_the_tolerance_and_beyond_the_repeats(before: Figure, after: Figure, outside: bool) -> None:
    assert Change("worker", "x", before, after).outside(0.1) is outside


def test_a_target_tells_worse_from_better() -> None:
    def judged(bench: str, figure: str, after: float) -> str:
        return Change(bench, figure, Figure(10.0), Figure(after)).judged()

    assert [judged("worker", "cpu_us_per_frame", us) for us in (5.0, 20.0)] == ["better", "worse"]
    assert [judged("path", "frames_per_s", rate) for rate in (5.0, 20.0)] == ["worse", "better"]
    assert judged("worker", "nobody_asks", 5.0) == "differs"


def test_the_command_prints_ratios_and_says_what_is_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(tmp_path, "a", worker=worker(1.0, 0.9, 1.1, frames=7, gone=1), edge={"bench": "edge", "rss": 50})
    after = written(tmp_path, "b", worker=worker(2.0, 1.9, 2.1, frames=7, new=1))
    assert main(["compare", str(before), str(after)]) == 1
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("worker.cpu_us_per_frame")]
    assert line.split() == ["worker.cpu_us_per_frame", "1", "2", "2.000", "WORSE"]
    assert "0.9 .. 1.1" in said and "1.9 .. 2.1" in said and "outside 10%" in said
    assert [line for line in said.splitlines() if line.startswith("only in")] == [
        "only in A: edge.rss",
        "only in A: worker.gone",
        "only in B: worker.new",
    ]
    assert main(["compare", str(before), str(after), "--tolerance", "1.5"]) == 0
    assert main(["compare", str(before), str(before)]) == 0


def test_one_benchmarks_output_can_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("cpu=x  cores=2\n== worker ==\n" + json.dumps(worker(1.0, 0.9, 1.1) | {"machine": MACHINE}) + "\n")
    found = read(path)
    assert (
        found.figures("worker") == {"cpu_us_per_frame": Figure(1.0, 0.9, 1.1, 3)} and found.about["machine"] == MACHINE
    )


@pytest.mark.parametrize("text", ["", "nonsense", "[1]", '{"a": 1}'])
def test_a_file_without_results_is_refused_by_name(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BadResult, match=r"x\.json"):
        read(path)
    assert main(["compare", str(path), str(path)]) == 2 and "x.json" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "absent.json"), str(path)]) == 2


def test_the_page_shows_every_figure_with_its_spread_and_target(tmp_path: Path) -> None:
    path = written(tmp_path, "some-machine", worker=worker(1.2, 1.1, 1.3, frames_per_s=1_234_567.0))
    text = page([read(path)])
    assert "## some-machine" in text and "### worker" in text and "- a note of some words" in text
    assert "| `cpu_us_per_frame` | 1.2 | 1.1 | 1.3 | 3 | must <= 1.4, goal <= 1 us: must met |" in text
    assert "| `frames_per_s` | 1,234,567 |  |  |  |  |" in text
    assert "none" not in text and max(len(line) for line in text.splitlines()) <= WIDTH


def test_a_developers_own_results_are_not_on_the_page(tmp_path: Path) -> None:
    for name in ("latest", "latest-2", "kept"):
        written(tmp_path, name)
    assert [path.stem for path in kept(tmp_path)] == ["kept"]


def test_the_committed_page_is_what_the_command_writes() -> None:
    assert PAGE.read_text() == page([read(path) for path in kept()]), "run python -m bench results"
