"""The committed dashboards are what the code makes; Grafana can lay them out; expressions ask for what there is."""

import json
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from deploy.grafana.dashboards import BOARDS, FOLDER, NOT_SHOWN, text
from deploy.grafana.panels import WIDTH
from klais.cli.reference import metric_labels

REPO = Path(__file__).parents[3]
MADE: dict[str, dict[str, Any]] = {board.uid: json.loads(text(board)) for board in BOARDS}
UNITS = {"short", "pps", "s", "bytes", "Bps", "percentunit"}
OF_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
SUFFIXES = ("_bucket", "_count", "_sum")
EVERYWHERE = {"job", "instance", "le"}


def expressions(board: dict[str, Any]) -> list[str]:
    return [
        target["expr"].replace("$__rate_interval", "1m") for panel in board["panels"] for target in panel["targets"]
    ]


def selectors(expr: str) -> list[Any]:
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found


def metric_of(name: str) -> str:
    """The metric that a series belongs to: a histogram has three."""
    for suffix in SUFFIXES:
        if name.endswith(suffix) and name.removesuffix(suffix) in metric_labels():
            return name.removesuffix(suffix)
    return name


def test_the_committed_files_are_what_the_code_makes() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {f"{uid}.json" for uid in MADE}
    for board in BOARDS:
        committed = (FOLDER / f"{board.uid}.json").read_text()
        assert committed == text(board), "run `.venv/bin/python -m deploy.grafana.dashboards` and commit the result"


@pytest.mark.parametrize("uid", MADE)
def test_grafana_can_lay_it_out(uid: str) -> None:
    board = MADE[uid]
    assert board["uid"] == uid and 0 < len(uid) <= 40 and board["title"].startswith("KLAIS / ")
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) and all(ids)
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    for panel in panels:
        at = panel["gridPos"]
        assert at["w"] > 0 and at["h"] > 0 and at["x"] >= 0 and at["x"] + at["w"] <= WIDTH
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [
            {"type": "prometheus", "uid": "${datasource}"}
        ] * (1 + len(panel["targets"]))
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs)


@pytest.mark.parametrize("uid", MADE)
def test_it_has_the_variables_and_links_of_all(uid: str) -> None:
    board = MADE[uid]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "ui"]
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["datasource"]["uid"] == "${datasource}" and variables[name]["multi"] is True
    assert [link.get("url", link["tags"]) for link in board["links"]] == [["klais"], "${ui}"]
    assert "klais" in board["tags"]


@pytest.mark.parametrize("uid", MADE)
def test_every_expression_asks_for_metrics_and_labels_that_exist(uid: str) -> None:
    known = metric_labels()
    for expr in expressions(MADE[uid]):
        found = selectors(expr)
        assert found, expr
        for selector in found:
            name = metric_of(selector.name)
            assert name in known or name in OF_PROCESS, expr
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert {"job", "instance"} <= asked, f"{expr} leaves the choice of job and instance out"
            assert asked - EVERYWHERE <= known.get(name, frozenset()), expr


def test_every_metric_is_on_a_panel_or_says_why_not() -> None:
    shown = {metric_of(s.name) for board in MADE.values() for expr in expressions(board) for s in selectors(expr)}
    assert shown >= OF_PROCESS
    documented = set(metric_labels())
    assert documented - shown == set(NOT_SHOWN), "put a new metric on a panel"


def test_uids_and_titles_are_unique_over_all() -> None:
    titles = [board["title"] for board in MADE.values()]
    assert len(set(titles)) == len(titles) == len(BOARDS) == len(MADE) == 5
    specs = list(chain.from_iterable(board.panels() for board in BOARDS))
    assert len(specs) == sum(len(board["panels"]) for board in MADE.values())
