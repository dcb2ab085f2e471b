"""The bounds of the model checker that the paper names are those that are checked."""

import ast
import re
from pathlib import Path

REPO = Path(__file__).parents[3]
MODEL_TEST = REPO / "tests" / "property" / "test_lane_model.py"
BOUNDS = ("FRAMES", "SESSIONS", "ENDS", "CUTS")


def checked(name: str) -> list[tuple[int | str, ...]]:
    """Runs of a list in the test of the model: its bounds, and whether the figures have to be exact."""
    found = re.search(rf"^{name} = \[\n(.*?)^\]", MODEL_TEST.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    runs = [line.strip().rstrip(",") for line in found[1].splitlines()]
    bounds = [ast.literal_eval(run.removesuffix(" | EXACT")) for run in runs]
    return [
        (*(one[bound] for bound in BOUNDS), "exact" if run.endswith("EXACT") else "bounds")
        for one, run in zip(bounds, runs, strict=True)
    ]


def test_the_paper_names_the_runs_of_the_model_checker() -> None:
    rows = re.findall(
        r"^\| (each build|before a release) \| (\d) \| (\d) \| (\d) \| (\d) \| (exact|bounds) \|$",
        (REPO / "docs" / "RESEARCH_PAPER.md").read_text(),
        re.MULTILINE,
    )
    said = [(when, *map(int, bounds), kind) for when, *bounds, kind in rows]
    small = [("each build", *run) for run in checked("SMALL")]
    assert said == small + [("before a release", *run) for run in checked("LARGE")] and len(small) > 1
