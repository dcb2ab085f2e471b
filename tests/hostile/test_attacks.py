"""Each attack that is known has tests, and they exist."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.hostile.attacks import FAMILIES

ROOT = Path(__file__).parents[2]
ATTACKS = [(family, attack) for family, attacks in FAMILIES.items() for attack in attacks]


@cache
def functions(path: str) -> set[str]:
    """Names of the tests in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("family", "attack"), ATTACKS, ids=[f"{f}: {a}" for f, a in ATTACKS])
def test_an_attack_has_tests_that_exist(family: str, attack: str) -> None:
    tests = FAMILIES[family][attack]
    assert tests
    missing = [test for test in tests if test.partition("::")[2] not in functions(test.partition("::")[0])]
    assert not missing
