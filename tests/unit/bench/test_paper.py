"""The paper: each figure in it is that of a result file, and says so where there is none."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import paper
from bench.__main__ import main
from bench.figures import BadResult, ResultFile, read
from bench.keep import entry
from bench.kept import NOT_MEASURED, KeptSamples
from bench.paper import PAPER, BadPaper, filled, unmarked
from bench.paper_pdf import html
from bench.paper_tables import BENCHES, TABLES
from bench.results import kept

TEXT = """# Title

## 1. Abstract

It takes
for each frame <!-- figure worker.cpu_us_per_frame µs -->9 µs<!-- /figure --> or so.

## 2. Evaluation

<!-- table memory -->
| left | over |
<!-- /table -->
"""


def file(name: str, taken_at: str, **benches: dict[str, Any]) -> ResultFile:
    machine = {"cpu": "Some CPU", "cores": 2, "memory_gb": 4.0, "kernel": "Linux 6.18"}
    return ResultFile(name, {"machine": machine, "taken_at": taken_at, "commit": "abc"}, benches)


def worker(us: float) -> dict[str, Any]:
    return {"cpu_us_per_frame": us, "spread": {"cpu_us_per_frame": {"min": us - 0.25, "max": us + 0.25, "repeats": 3}}}


def test_every_figure_of_the_paper_is_that_of_a_result_file() -> None:
    text = PAPER.read_text()
    assert text == filled(text, KeptSamples([read(path) for path in kept()])), "run make results"


def test_no_number_with_a_unit_stands_beside_the_markers() -> None:
    assert unmarked(PAPER.read_text()) == [], "put it between markers, or into the section on the method"


def test_the_sections_that_report_are_there() -> None:
    titles = {title.split()[0] for title in paper.sections(PAPER.read_text())}
    assert set(paper.REPORTING) <= titles


def test_all_tables_have_a_place_and_all_figures_a_benchmark() -> None:
    text = PAPER.read_text()
    assert sorted(re.findall(r"<!-- table (\S+) -->", text)) == sorted(TABLES)
    asked = KeptSamples([])
    filled(text, asked)
    assert {re.split(r"[.\[]", path)[0] for path in asked.missing} <= BENCHES and len(asked.missing) > 100


def test_without_result_files_the_paper_says_so() -> None:
    text = filled(TEXT, KeptSamples([]))
    assert f"for each frame <!-- figure worker.cpu_us_per_frame µs -->{NOT_MEASURED}<!-- /figure --> or so." in text
    assert f"| edge, idle | {NOT_MEASURED} |  |" in text and "left" not in text


def test_figures_come_with_their_spread_from_the_newest_file_that_has_the_benchmark() -> None:
    old = file("old", "2026-01-01", worker=worker(3.0), memory={"edge_rss_mb": 80.0})
    new = file("new", "2026-02-01", worker=worker(1.5))
    text = filled(TEXT, KeptSamples([new, old]))
    assert "<!-- figure worker.cpu_us_per_frame µs -->1.5 µs (1.25 to 1.75)<!-- /figure -->" in text
    assert "| edge, idle | 80 |  |" in text
    assert filled(text, KeptSamples([new, old])) == text
    machines = TABLES["machines"].lines(KeptSamples([new, old]))[2:]
    assert machines[0] == "| `new` | 2026-02-01 | abc | Some CPU, 2 cores, 4.0 GB, Linux 6.18 | worker |"
    assert machines[1].endswith("| memory |") and len(machines) == 2


def test_a_figure_that_its_benchmark_lacks_is_named() -> None:
    asked = KeptSamples([file("new", "2026-02-01", worker={"frames": 1})])
    filled(TEXT, asked)
    assert "worker.cpu_us_per_frame" in asked.missing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("figure worker.", "figure walker."), "walker"),
        (("table memory", "table memories"), "memories"),
        (("<!-- /figure -->", ""), "figure"),
        (("<!-- /table -->", ""), "table"),
    ],
)
def test_a_marker_that_names_nothing_or_has_no_end_is_refused(change: tuple[str, str], said: str) -> None:
    with pytest.raises(BadPaper, match=said):
        filled(TEXT.replace(*change), KeptSamples([]))


@pytest.mark.parametrize("number", ["12 ms", "0.45 µs", "1,000,000 frames/s", "30 %", "5 to 7 MB", "1.4 times", "12ms"])
def test_a_number_with_a_unit_outside_of_markers_is_found(number: str) -> None:
    assert unmarked(TEXT) == []
    (found,) = unmarked(TEXT.replace("or so", f"or {number}"))
    assert found.startswith("Abstract: ") and found.removeprefix("Abstract: ") in number
    assert unmarked(TEXT.replace("# Title", f"## Method\n\n{number}\n")) == []


@pytest.mark.parametrize("number", ["TR 37.868", "two cores", "Section 5.1", "Kafka 4", "`12 ms`", "Beta(3,4)", "[19]"])
def test_other_numbers_are_not(number: str) -> None:
    assert unmarked(TEXT.replace("or so", f"or {number}")) == []


def test_details_come_from_the_rows_of_a_benchmark() -> None:
    rows = [{"as": "controlled", "devices": 1000, "recovery_s": None, "order_kept": True, "lost": 0}]
    lines = TABLES["herd"].lines(KeptSamples([file("new", "2026", herd={"rows": rows})]))
    assert lines[2] == "| controlled | 1,000 | none |  |  |  |  |  | 0 | yes |"
    assert TABLES["herd"].lines(KeptSamples([]))[2].startswith(f"| controlled | {NOT_MEASURED} |")


@pytest.mark.parametrize(("us", "verdict"), [(1.4, "holds"), (1.5, "**does not hold**")])
def test_a_claim_is_held_to_its_bound(us: float, verdict: str) -> None:
    lines = TABLES["claims"].lines(KeptSamples([file("new", "2026", worker=worker(us))]))
    assert lines[2] == f"| CPU time of the worker, a frame | <= 1.4 µs | {us} | {verdict} |"
    assert lines[3].endswith(f"| {NOT_MEASURED} |  |")


def test_lines_stay_within_the_width_with_wide_figures() -> None:
    """A marker's line must have room for the figure, and must not begin with the marker, which would end the
    paragraph."""
    for line in PAPER.read_text().splitlines():
        if "<!-- figure" in line:
            assert not line.lstrip().startswith("<!--"), line
            assert len(re.sub(r"-->.*<!-- /", "-->123,456 frames/s (1,234 to 5,678)<!-- /", line)) <= 120, line


def test_what_a_command_printed_goes_into_a_result_file(tmp_path: Path) -> None:
    out, kept_file = tmp_path / "out.txt", tmp_path / "machine.json"
    out.write_text('types\n{"held_out": {"change": {"recall": 0.97}}, "ok": true}\n')
    for _ in range(2):  # the first one makes the file
        assert main(["keep", "fingerprint", str(out), str(kept_file)]) == 0
    assert read(kept_file).figures("fingerprint")["held_out.change.recall"].value == 0.97
    assert "cores" in json.loads(kept_file.read_text())["machine"]


@pytest.mark.parametrize("text", ["", "done\n", '{"a": 1}\nOK\n', "[1]\n"])
def test_an_output_without_an_object_at_its_end_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.txt"
    out.write_text(text)
    with pytest.raises(BadResult, match=r"out\.txt"):
        entry("nab", out)
    assert main(["keep", "nab", str(out), str(tmp_path / "machine.json")]) == 2
    assert "out.txt" in capsys.readouterr().err and not (tmp_path / "machine.json").exists()


RUN = {"machine": {"cores": 9}, "commit": "abc", "taken_at": "2026-01-01T00:00:00Z"}
IDLE = {"bench": "idle", "cores_klais_0_50": 0.06, "rows": [{"way": "klais"}]}


def _printed(path: Path, found: dict[str, Any], indent: int | None = None) -> Path:
    path.write_text("" if indent else "== idle ==\n")
    with path.open("a") as out:
        out.write(json.dumps(found, indent=indent) + "\n")
    return path


@pytest.mark.parametrize(
    "found", [RUN | IDLE, RUN | {"benches": {"idle": IDLE, "worker": {"bench": "worker"}}, "failed": {}}]
)
@pytest.mark.parametrize("indent", [None, 1])  # as printed with --json, and as written with --output
def test_a_result_of_an_ordinary_benchmark_is_kept_beside_the_others(
    tmp_path: Path, found: dict[str, Any], indent: int | None
) -> None:
    out, kept_file = _printed(tmp_path / "out.txt", found, indent), tmp_path / "machine.json"
    before = {
        "machine": {"cores": 2},
        "failed": {"idle": "no broker"},
        "benches": {"xdp": {"bench": "xdp", "pass_ns": 1}},
    }
    kept_file.write_text(json.dumps(before))
    assert main(["keep", "idle", str(out), str(kept_file)]) == 0
    whole = json.loads(kept_file.read_text())
    assert whole["benches"] == before["benches"] | {"idle": IDLE}
    assert whole["machine"] == {"cores": 2} and whole["failed"] == {}
    assert main(["keep", "idle", str(out), str(tmp_path / "new.json")]) == 0
    assert read(tmp_path / "new.json").about | RUN == read(tmp_path / "new.json").about


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (RUN | {"bench": "worker"}, "a result of worker, not of idle"),
        (RUN | {"benches": {"worker": {}}, "failed": {}}, "no result of idle; it has worker"),
        (RUN | {"benches": {}, "failed": {"idle": "no broker"}}, "no result of idle; it failed: no broker"),
        ({"cores_klais_0_50": 0.06}, "a result of no benchmark"),
    ],
)
def test_the_output_of_another_benchmark_is_not_kept(
    tmp_path: Path, found: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _printed(tmp_path / "out.txt", found)
    assert main(["keep", "idle", str(out), str(tmp_path / "machine.json")]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "machine.json").exists()


def test_the_page_for_print_has_tables_and_no_markers() -> None:
    page = html(PAPER.read_text())
    assert "<table>" in page and "<!--" not in page and "<h2>References</h2>" in page
    assert f"frame {NOT_MEASURED} or" in html(filled(TEXT, KeptSamples([])))
