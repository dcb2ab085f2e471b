"""Rules for the tests themselves, so that none fails because a machine is slow, busy or lacks something."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(path for path in TESTS.rglob("*.py") if path != Path(__file__))
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def timed(node: ast.AST) -> bool:
    """Whether an expression is a time that has passed: a clock, less something."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub):
        return False
    return isinstance(node.left, ast.Call) and ast.unparse(node.left.func).rpartition(".")[2] in CLOCKS


def upper_bounds(tree: ast.AST) -> list[int]:
    """Lines of assertions that so much time has passed at most."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for test in ast.walk(node.test):
                if isinstance(test, ast.Compare) and isinstance(test.ops[-1], ast.Lt | ast.LtE):
                    left = [test.left, *test.comparators][-2]
                    found += [node.lineno] if timed(left) and isinstance(test.comparators[-1], ast.Constant) else []
    return found


def second_copies(tree: ast.AST, name: str) -> list[str]:
    """What is written once in tests/support, and again here."""
    found = []
    for node in ast.walk(tree):
        waits = isinstance(node, ast.FunctionDef) and node.name in ("wait_for", "eventually", "_eventually")
        if waits and name != "support/process.py":
            found.append(f"line {node.lineno}: use wait_for of tests/support/process.py")
        ports = isinstance(node, ast.ImportFrom) and node.module == "klais.system.ports"
        if ports and "free_port" in {alias.name for alias in node.names} and name != "unit/system/test_ports.py":
            found.append(f"line {node.lineno}: use free_port of tests/support/ports.py")
    return found


@EACH
def test_it_keeps_the_rules(path: Path) -> None:
    tree, name = ast.parse(path.read_text()), path.relative_to(TESTS).as_posix()
    wrong = [f"line {line}: asserts that little time has passed" for line in upper_bounds(tree)]
    for text, call in calls(tree):
        if text in ("pytest.skip", "pytest.mark.skip", "pytest.mark.skipif") and name != "support/needs.py":
            wrong.append(f"line {call.lineno}: skips by itself; use need_missing of tests/support/needs.py")
        if text == "pytest.mark.timeout" and isinstance(call.args[0], ast.Constant):
            wrong.append(f"line {call.lineno}: a timeout of its own; the one of pyproject.toml is for all")
    assert wrong + second_copies(tree, name) == []


def test_the_rules_see_what_they_forbid() -> None:
    bad = "assert time.monotonic() - began < 10\nassert 0.5 < time.time() - t <= 3 and x"
    good = "assert time.monotonic() - began >= 10\nassert a < b\nassert age <= time.monotonic() - began"
    assert upper_bounds(ast.parse(bad)) == [1, 2] and upper_bounds(ast.parse(good)) == []
