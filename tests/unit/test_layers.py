"""Who may import whom, read from the source (imports inside functions count too)."""

import json
import subprocess
import sys

import pytest

from klais.cli.main import COMMANDS
from tests.support.imports import cycles, file_graph, file_of, imports_of, modules_below, package_graph, reach
from tests.support.process import PATIENCE

MODULES = modules_below("klais")
ALL = modules_below("klais", "agents")
CORES = ("klais.core.",)
OUTSIDE = {"confluent_kafka", "aiokafka", "faust", "mode", "aiohttp", "bcc", "prometheus_client", "agents"}
# These run where nothing is compiled, or before anything is; the others work on frames.
LIGHT = (
    *("up", "worker", "kafka", "topics", "tail", "stats", "xdp", "control", "config", "doctor", "version", "devices"),
    *("lag", "validate", "top", "completion", "sources"),
)


@pytest.mark.parametrize("module", MODULES)
def test_the_library_never_imports_the_application_or_faust(module: str) -> None:
    assert {name.split(".")[0] for name in imports_of(module)}.isdisjoint({"agents", "faust", "mode"})


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(CORES)])
def test_cores_reach_no_kafka_web_or_metrics(module: str) -> None:
    reached = reach(module)
    wrong = {name: by for name, by in reached.items() if name.split(".")[0] in OUTSIDE}
    assert not wrong, "a core is columns in, columns out: " + ", ".join(f"{by} imports {n}" for n, by in wrong.items())


def test_no_files_import_each_other_in_a_circle() -> None:
    assert cycles(file_graph(ALL)) == set()


def test_no_packages_import_each_other_in_a_circle() -> None:
    graph = package_graph(file_graph(ALL))
    assert {"klais.core", "klais.errors", "agents"} <= set(graph)
    assert cycles(graph) == set()


def test_cycles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f", "a"}, "h": {"h"}}
    assert cycles(graph) == {frozenset("abc"), frozenset("fg")}
    files = {"klais.x.a": {"klais.y"}, "klais.y": {"klais.x.b"}, "klais.x.b": set(), "agents.z": {"klais.y"}}
    packages = {"klais.x": {"klais.y"}, "klais.y": {"klais.x"}, "agents": {"klais.y"}}
    assert package_graph(files) == packages


def test_the_walk_sees_what_it_should_forbid() -> None:
    assert "aiokafka" in reach("klais.kafka.reader")
    assert "numba" in reach("klais.core.wire.frame")


def test_light_commands_load_neither_numba_nor_faust() -> None:
    modules = [COMMANDS[name][0] for name in LIGHT if file_of(COMMANDS[name][0]) is not None]
    known = ("tail", "stats", "config", "doctor.command", "version", "worker")
    assert set(modules) >= {f"klais.cli.{name}" for name in known}
    # What their functions import when they run, as far as it is ours and no broker is needed for it.
    lazy = ["klais.core.wire.batch", "klais.core.lane.journal", "klais.core.devices.layout"]
    lazy += ["klais.kafka.admin", "klais.kafka.clients", "klais.control.overrides"]
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
