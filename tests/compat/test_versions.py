"""The tested versions: the same in pyproject.toml and at the worker's start, which says what to do about others."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from agents.faust_ext import versions
from agents.faust_ext.versions import TESTED, assert_versions
from klais.errors import SetupMissing

ROOT = Path(__file__).parents[2]
COMPAT = ROOT / "agents/faust_ext/COMPAT.md"


def test_the_pins_are_those_of_pyproject() -> None:
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = {requirement.name: requirement.specifier for requirement in map(Requirement, pinned)}
    tested = {name: Requirement(name + spec).specifier for name, spec in TESTED.items()}
    assert {name: found[name] for name in TESTED} == tested


def test_what_is_installed_is_tested() -> None:
    assert_versions()


def test_other_versions_are_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "TESTED", TESTED | {"aiokafka": ">=99", "no-such-distribution": "==1"})
    with pytest.raises(SetupMissing) as caught:
        assert_versions()
    text = str(caught.value)
    assert re.search(r"aiokafka 0\.14\S* \(needs aiokafka>=99\)", text) and "no no-such-distribution" in text
    assert "pip install" in text and "pytest tests/compat" in text


def test_each_patch_names_files_and_tests_that_exist() -> None:
    entries = re.split(r"^### ", COMPAT.read_text(), flags=re.M)[1:]
    assert len(entries) > 10
    for entry in entries:
        files = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", entry)
        assert any(name.startswith("tests/") for name, _ in files), f"no test: {entry}"
        for name, function in files:
            path = ROOT / name
            assert path.is_file(), f"{name} is gone: {entry}"
            assert not function or f"def {function}(" in path.read_text(), f"{name} has no {function}"
