"""The shape of the project: sizes of files and functions, length of lines, what lies where, a marker for each tier."""

import ast
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES, LINE_WIDTH = 400, 60, 120
AGENTS_LINES = 900  # agents/ holds only what imports Faust
TIERS = {"unit", "property", "contract", "compat", "broker", "browser", "hostile", "kernel", "fault", "bench"}
CODE = {".py", ".c", ".h", ".sh"}  # pages: test_prose.py
# Files with longer lines, one a line. Add none: shorten the lines of a file and take it out. After moves
# `python -m tests.unit.test_structure` writes the list again.
WIDE_LIST = Path(__file__).parent / "wide_files.txt"
WIDE_FILES = frozenset(WIDE_LIST.read_text().split())


@cache
def tracked() -> tuple[str, ...]:
    """Paths of all files of the project that git knows, or would add."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        out = subprocess.run(listed, cwd=REPO, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # the sources without their repository, as in an archive
        roots = ("agents", "bench", "bin", "bpf", "docs", "examples", "klais", "tests")
        found = [path for root in roots for path in (REPO / root).rglob("*")] + list(REPO.glob("*"))
        out = [str(path.relative_to(REPO)) for path in found if "__pycache__" not in path.parts]
    return tuple(sorted(name for name in out if (REPO / name).is_file()))


def of_kind(*endings: str) -> list[str]:
    return [name for name in tracked() if Path(name).suffix in endings]


@cache
def lines_of(name: str) -> tuple[str, ...]:
    return tuple((REPO / name).read_text().splitlines())


def test_there_is_something_to_look_at() -> None:
    assert len(of_kind(".py")) > 300 and len(of_kind(".md")) > 20 and "bin/setup" in tracked()


def test_files_are_short() -> None:
    long = {name: len(lines_of(name)) for name in of_kind(*CODE) if len(lines_of(name)) > FILE_LINES}
    assert long == {}, f"more than {FILE_LINES} lines: split the file by what it is about"


def test_functions_are_short() -> None:
    long = {}
    for name in of_kind(".py"):
        for node in ast.walk(ast.parse("\n".join(lines_of(name)))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                size = node.end_lineno - node.lineno + 1
                if size > FUNCTION_LINES:
                    long[f"{name}:{node.lineno} {node.name}"] = size
    assert long == {}, f"more than {FUNCTION_LINES} lines: split the function by its steps"


def wide_lines(name: str) -> dict[str, int]:
    return {f"{name}:{n}": len(line) for n, line in enumerate(lines_of(name), 1) if len(line) > LINE_WIDTH}


def test_lines_are_short() -> None:
    wide = [line for name in of_kind(*CODE) if name not in WIDE_FILES for line in wide_lines(name).items()]
    assert wide == [], f"more than {LINE_WIDTH} characters"


def test_agents_holds_only_what_imports_faust() -> None:
    assert sum(len(lines_of(name)) for name in of_kind(".py") if name.startswith("agents/")) < AGENTS_LINES


def test_few_modules_lie_loose_in_klais() -> None:
    loose = {path.name for path in (REPO / "klais").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert loose <= {"errors.py", "text.py", "fault.py"}, "put the others into a package"


def test_every_tier_has_its_marker() -> None:
    with (REPO / "pyproject.toml").open("rb") as file:
        markers = tomllib.load(file)["tool"]["pytest"]["ini_options"]["markers"]
    folders = {Path(name).parts[1] for name in tracked() if name.startswith("tests/") and len(Path(name).parts) > 2}
    assert {marker.partition(":")[0] for marker in markers} == TIERS == folders - {"support", "vectors"}


def test_a_test_is_marked_with_its_tier(request: pytest.FixtureRequest) -> None:
    assert {mark.name for mark in request.node.iter_markers()} & TIERS == {"unit"}


def test_bench_and_library_import_nothing_from_tests() -> None:
    wrong = []
    for name in of_kind(".py"):
        if not name.startswith("tests/"):
            for node in ast.walk(ast.parse("\n".join(lines_of(name)))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [name for imported in names if imported.split(".")[0] == "tests"]
    assert wrong == []


if __name__ == "__main__":
    WIDE_LIST.write_text("".join(f"{name}\n" for name in of_kind(*CODE) if wide_lines(name)))
