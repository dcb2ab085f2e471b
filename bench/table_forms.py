"""Kinds of tables in docs/RESEARCH_PAPER.md; each renders Markdown lines from the kept result files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.harness.report import TARGETS, Sense, Target, shown
from bench.kept import NOT_MEASURED, KeptSamples, cell, spread
from bench.plots import PLOTS


class Table(Protocol):
    """A renderer of the lines of a Markdown table."""

    def lines(self, kept: KeptSamples) -> list[str]:
        """Head, rule and rows."""
        ...


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of a label and figures; an empty path is an empty cell."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def lines(self, kept: KeptSamples) -> list[str]:
        """One figure a cell."""
        out = [(label, *(cell(kept.figure(path)) if path else "" for path in paths)) for label, *paths in self.rows]
        return _markdown(self.head, out)


@dataclass(frozen=True, slots=True)
class Listed:
    """One figure a row: label, value with unit, minimum and maximum of the repeats."""

    rows: tuple[tuple[str, str, str], ...]

    def lines(self, kept: KeptSamples) -> list[str]:
        """Label, unit, path."""
        out = []
        for label, unit, path in self.rows:
            figure = kept.figure(path)
            out.append((label, cell(figure), unit if figure is not None else "", spread(figure)))
        return _markdown(("what", "value", "unit", "repeats"), out)


@dataclass(frozen=True, slots=True)
class Details:
    """The detail rows of one benchmark, those whose ``by`` is in ``of``; ``keys`` are columns: (head, key)."""

    bench: str
    by: str
    of: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]

    def lines(self, kept: KeptSamples) -> list[str]:
        """One row for each value of ``of``; values without results are marked."""
        rows, out = kept.rows(self.bench), []
        for value in self.of:
            having = [row for row in rows if row.get(self.by) == value]
            if not having:
                kept.missing.append(f"{self.bench}[{self.by}={value}]")
            out += [[_word(row.get(key, "")) for _, key in self.keys] for row in having] or [
                [value, NOT_MEASURED, *[""] * (len(self.keys) - 2)]
            ]
        return _markdown([head for head, _ in self.keys], out)


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return shown(value)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim about a figure; the bound is that of ``TARGETS`` unless one is given."""

    text: str
    path: str
    unit: str = ""
    sense: Sense = "<="
    bound: float | None = None

    def target(self) -> Target:
        """The bound that the figure is held to."""
        if self.bound is not None:
            return Target(self.path, self.unit, self.sense, self.bound)
        bench, _, name = self.path.partition(".")
        return next(target for target in TARGETS[bench] if target.figure == name)


@dataclass(frozen=True, slots=True)
class Claims:
    """Each claim, the measured value, and whether it holds."""

    claims: tuple[Claim, ...]

    def lines(self, kept: KeptSamples) -> list[str]:
        """Claim, bound, measured, verdict."""
        out = []
        for claim in self.claims:
            target, figure = claim.target(), kept.figure(claim.path)
            bound = target.must if target.must is not None else target.goal
            assert bound is not None
            verdict = ""
            if figure is not None:
                verdict = "holds" if target.meets(figure.value, bound) else "**does not hold**"
            said = f"{target.sense} {shown(bound)} {_UNITS.get(target.unit, target.unit)}".strip()
            out.append((claim.text, said, cell(figure), verdict))
        return _markdown(("claim", "bound", "measured", "verdict"), out)


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot of docs/plots, where there are figures for it."""

    name: str

    def lines(self, kept: KeptSamples) -> list[str]:
        """The picture, or that it is not measured."""
        plot = PLOTS[self.name]
        return [f"![{plot.alt}](plots/{self.name}.svg)" if plot.data(kept) else f"*{plot.alt}: {NOT_MEASURED}.*"]


class Machines:
    """The file and machine of each benchmark."""

    def lines(self, kept: KeptSamples) -> list[str]:
        """One row a result file that is used."""
        out = [row for file in kept.files if (row := self._row(kept, file.name))]
        return _markdown(("file", "taken at", "commit", "machine", "benchmarks"), out or [[NOT_MEASURED, *[""] * 4]], 5)

    @staticmethod
    def _row(kept: KeptSamples, name: str) -> list[str]:
        file = next(one for one in kept.files if one.name == name)
        used = sorted(bench for bench in file.benches if kept.file_of(bench) is file)
        if not used:
            return []
        machine = file.about.get("machine", {})
        words = [f"{machine[key]}{unit}" for key, unit in _MACHINE if key in machine]
        about = [str(file.about.get(key, "")) for key in ("taken_at", "commit")]
        return [f"`{name}`", *about, ", ".join(words), ", ".join(used)]


_UNITS = {"us": "µs", "x": ""}
_MACHINE = (("cpu", ""), ("cores", " cores"), ("memory_gb", " GB"), ("kernel", ""))
