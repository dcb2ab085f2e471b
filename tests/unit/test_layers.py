"""Who may import whom, read from the source (imports inside functions count too)."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import klais
from klais.cli.main import COMMANDS
from tests.support.process import PATIENCE

PACKAGE = Path(klais.__file__).parent
MODULES = sorted(
    ".".join(["klais", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
CORES = ("klais.core.",)
OUTSIDE = {"confluent_kafka", "aiokafka", "faust", "mode", "aiohttp", "bcc", "prometheus_client", "agents"}
# These run where nothing is compiled, or before anything is; the others work on frames.
LIGHT = ("up", "worker", "kafka", "topics", "tail", "stats", "xdp", "control", "config", "doctor", "version")


def _file(module: str) -> Path | None:
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(module: str) -> frozenset[str]:
    """Full names of what a module imports; ``from a import b`` gives a.b where that is a module, else a."""
    path = _file(module)
    assert path is not None, module
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: imports are absolute in klais"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                inside = node.module.startswith("klais") and _file(whole) is not None
                found.add(whole if inside else node.module)
    return frozenset(found)


def _reach(module: str) -> dict[str, str]:
    """Everything a module imports directly or through other modules of klais, with the module that names it."""
    found: dict[str, str] = {}
    todo = [module]
    while todo:
        at = todo.pop()
        for name in _imports(at):
            if name not in found:
                found[name] = at
                if name.split(".")[0] == "klais" and _file(name) is not None:
                    todo.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_library_never_imports_the_application_or_faust(module: str) -> None:
    assert {name.split(".")[0] for name in _imports(module)}.isdisjoint({"agents", "faust", "mode"})


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(CORES)])
def test_cores_reach_no_kafka_web_or_metrics(module: str) -> None:
    reached = _reach(module)
    wrong = {name: by for name, by in reached.items() if name.split(".")[0] in OUTSIDE}
    assert not wrong, "a core is columns in, columns out: " + ", ".join(f"{by} imports {n}" for n, by in wrong.items())


def test_the_walk_sees_what_it_should_forbid() -> None:
    assert "aiokafka" in _reach("klais.kafka.reader")
    assert "numba" in _reach("klais.core.wire.frame")


def test_light_commands_load_neither_numba_nor_faust() -> None:
    modules = [COMMANDS[name][0] for name in LIGHT if _file(COMMANDS[name][0]) is not None]
    assert set(modules) >= {f"klais.cli.{name}" for name in ("tail", "stats", "config", "doctor.command", "version", "worker")}
    # What their functions import when they run, as far as it is ours and no broker is needed for it.
    lazy = ["klais.core.wire.batch", "klais.core.lane.journal", "klais.core.devices.layout"]
    lazy += ["klais.kafka.admin", "klais.kafka.clients"]
    lazy += ["klais.cli.up.run", "klais.cli.up.screen", "klais.xdp.loader", "klais.xdp.maps", "klais.cli.xdp.show"]
    code = (
        "import importlib, json, sys\n"
        "heavy = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    for lib in ('numba', 'faust', 'sklearn'):\n"
        "        if lib in sys.modules: heavy.setdefault(lib, name)\n"
        "print(json.dumps(heavy))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, json.dumps(["klais.cli.main", *modules, *lazy])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60 * PATIENCE,
    )
    assert json.loads(ran.stdout) == {}, "these are loaded by the module named"
