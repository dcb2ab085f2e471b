"""The import graph, read from the source. Imports inside functions and below ``if TYPE_CHECKING`` count too."""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

REPO = Path(__file__).parents[2]
ROOTS = ("klais", "agents")


def modules_below(*roots: str) -> tuple[str, ...]:
    """Full names of all modules of these packages."""
    found = [path.relative_to(REPO).with_suffix("").parts for root in roots for path in (REPO / root).rglob("*.py")]
    return tuple(sorted(".".join(parts).removesuffix(".__init__") for parts in found))


@cache
def file_of(module: str) -> Path | None:
    """File of a module of this repository; None for other modules."""
    base = REPO.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Full names of a module's imports; ``from a import b`` gives a.b if that is a module of ours, else a."""
    path = file_of(module)
    assert path is not None, module
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: write absolute imports"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                ours = node.module.split(".")[0] in ROOTS and file_of(whole) is not None
                found.add(whole if ours else node.module)
    return frozenset(found)


def reach(module: str) -> dict[str, str]:
    """All imports of a module, direct and through other modules of this repository, with the importing module."""
    found: dict[str, str] = {}
    todo = [module]
    while todo:
        at = todo.pop()
        for name in imports_of(at):
            if name not in found:
                found[name] = at
                if name.split(".")[0] in ROOTS and file_of(name) is not None:
                    todo.append(name)
    return found


def package_of(module: str) -> str:
    """The node of a module in the graph of packages: ``klais.<package>``, a loose module of klais, or ``agents``."""
    return "agents" if module.split(".")[0] == "agents" else ".".join(module.split(".")[:2])


def file_graph(modules: Iterable[str]) -> dict[str, set[str]]:
    """For each module, its imports among these modules."""
    known = set(modules)
    return {module: (imports_of(module) & known) - {module} for module in sorted(known)}


def package_graph(files: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each package, its imported packages, from a graph of files."""
    graph: dict[str, set[str]] = {package_of(module): set() for module in files}
    for module, imported in files.items():
        graph[package_of(module)] |= {package_of(name) for name in imported} - {package_of(module)}
    return graph


def cycles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Groups of nodes that reach each other: the strongly connected components of more than one node (Tarjan, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        for following in graph[node]:
            if following not in number:
                visit(following)
                lowest[node] = min(lowest[node], lowest[following])
            elif following in path:
                lowest[node] = min(lowest[node], number[following])
        if lowest[node] == number[node]:
            group = path[path.index(node) :]
            del path[path.index(node) :]
            if len(group) > 1:
                found.add(frozenset(group))

    for node in graph:
        if node not in number:
            visit(node)
    return found
