"""The pages for people are true: files, functions, settings, commands, metrics and links that they name exist."""

import ast
import re
import socket
from functools import cache
from pathlib import Path

import pytest

from klais.cli.main import COMMANDS
from klais.config.load import ENV_EXTRA, Settings
from klais.core.wire.constants import Reason, encode_frame
from klais.telemetry.metrics import EdgeMetrics, EdgeSnapshot, WorkerMetrics, WorkerSnapshot

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
ARCHITECTURE = REPO / "docs" / "architecture.md"
NAMES = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))


@cache
def definitions(path: str) -> frozenset[str]:
    """Functions, methods and classes of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in ast.walk(ast.parse((REPO / path).read_text())) if isinstance(node, kinds))


def code_of(page: Path) -> list[str]:
    """Everything in backquotes outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


@NAMES
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = [code for code in code_of(page) if re.fullmatch(r"[\w./-]+\.(py|md|sh|yml|toml)", code) and "/" in code]
    assert [code for code in named if not (REPO / code).exists() and not (page.parent / code).exists()] == []


def test_every_function_of_the_architecture_page_is_in_the_file_named_with_it() -> None:
    code = code_of(ARCHITECTURE)
    files = [name for name in dict.fromkeys(code) if name.endswith(".py") and (REPO / name).is_file()]
    everything = frozenset().union(*(definitions(name) for name in files))
    named = [name for name in code if re.fullmatch(r"_?[a-z][a-z0-9_]*|[A-Z][a-z]+[A-Za-z]*", name)]
    words = {reason.label for reason in Reason} | {"agents", "devices", "recvmmsg", "iot_telemetry", "klais_raw"}
    words |= {f"klais_{topic}" for topic in ("journal", "anomalies", "dead_letter", "control", "stats")} | {"read_committed"}
    assert len(named) > 40
    assert [name for name in named if name not in everything and name not in words] == []


@pytest.mark.parametrize(
    ("function", "file"),
    re.findall(r"`(\w+)` (?:in |of `\w+` in |\()`(\w[\w/]*\.py)`", re.sub(r"\s+", " ", ARCHITECTURE.read_text())),
)
def test_a_function_that_is_named_with_its_file_is_there(function: str, file: str) -> None:
    assert function in definitions(file)


@NAMES
def test_every_link_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


@NAMES
def test_every_setting_is_one(page: Path) -> None:
    known = {f"KLAIS_{name.upper()}" for name in Settings.model_fields} | set(ENV_EXTRA) | {"KLAIS_NAME"}
    named = set(re.findall(r"KLAIS_[A-Z0-9_]+", page.read_text()))
    odd = {name for name in named - known if not name.startswith("KLAIS_TEST_") and not name.endswith("_")}
    assert odd == set()


@NAMES
def test_every_command_is_one(page: Path) -> None:
    named = set(re.findall(r"(?:^|`|\$ |/)klais ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named - set(COMMANDS) == set()


@NAMES
def test_every_metric_is_one(page: Path) -> None:
    text = (EdgeMetrics(EdgeSnapshot).render()[0] + WorkerMetrics(WorkerSnapshot).render()[0]).decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    named = {code.split("{")[0] for code in code_of(page) if re.match(r"klais_\w+_(total|seconds|bytes)\b", code)}
    assert named - known == set()


def test_the_metrics_table_has_every_metric() -> None:
    text = (EdgeMetrics(EdgeSnapshot).render()[0] + WorkerMetrics(WorkerSnapshot).render()[0]).decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE klais_")}
    page = (REPO / "docs" / "operations.md").read_text()
    assert sorted(name for name in known if f"`{name}" not in page) == []


def test_the_operations_page_explains_every_reason() -> None:
    page = (REPO / "docs" / "operations.md").read_text()
    assert [reason.label for reason in Reason if f"`{reason.label}`" not in page] == []


def test_the_readmes_device_sends_a_good_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    class Recorder:
        def __init__(self, *_: object) -> None: ...

        def sendto(self, data: bytes, address: tuple[str, int]) -> None:
            assert address == ("127.0.0.1", 5000)
            sent.append(data)

    monkeypatch.setattr(socket, "socket", Recorder)
    (source,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    exec(source, {})
    assert sent == [encode_frame("sensor-42", 1, b'{"temperature": 21.5}')]


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        code = "\n".join([*code_of(page), *re.findall(r"```.*?```", page.read_text(), flags=re.DOTALL)])
        assert set(re.findall(r"(?:^\s*|&& )make ([a-z-]+)", code, re.MULTILINE)) - targets == set(), page
