"""Costs of a plan: the defaults, and figures of benchmarks in their place."""

import json
import re
from pathlib import Path

import pytest

from klais.errors import ConfigError
from klais.planning.costs import DEFAULTS, costs


def test_figures_of_a_results_file_take_the_place_of_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    benches = {"worker": {"cpu_us_per_frame": 0.5}, "start": {"worker_rss_mb": 120}, "memory": {"worker_rss_mb": 920}}
    path.write_text(json.dumps({"machine": {}, "benches": benches}))
    found = costs(path)
    assert found["worker_us"].value == 0.5 and "mine.json" in found["worker_us"].source
    assert found["device_bytes"].value == 800.0  # (920 - 120) MB for a million devices
    assert found["edge_us"] == DEFAULTS["edge_us"]


@pytest.mark.parametrize("value", [None, True, "1", -1.0, 0, 1e300, {}])
def test_a_figure_that_is_none_leaves_the_default(tmp_path: Path, value: object) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"benches": {"worker": {"cpu_us_per_frame": value}}}))
    assert costs(path)["worker_us"] == DEFAULTS["worker_us"]


@pytest.mark.parametrize("text", ["", "[]", '{"benches": []}', '{"benches": {}}', "[" * 100_000, "\xff"])
def test_a_file_without_results_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=re.escape("bad.json")):
        costs(path)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("away.json")):
        costs(tmp_path / "away.json")
