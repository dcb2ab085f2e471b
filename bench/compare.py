"""``python -m bench compare A.json B.json``: B against A, figure by figure, and the changes outside a tolerance."""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.figures import BadResult, Figure, ResultFile, read
from bench.harness.report import TARGETS, shown

TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both files; ``ratio`` is B over A."""

    bench: str
    figure: str
    before: Figure
    after: Figure

    @property
    def ratio(self) -> float:
        """B over A; infinite if A is 0 and B is not."""
        if self.before.value == 0:
            return 1.0 if self.after.value == 0 else math.inf
        return self.after.value / self.before.value

    def outside(self, tolerance: float) -> bool:
        """Whether the ratio is further from 1 than ``tolerance`` (either way), and the repeats do not overlap."""
        if self.ratio > 0 and max(self.ratio, 1 / self.ratio) <= 1 + tolerance:
            return False
        low = max(_low(self.before), _low(self.after))
        return low > min(_high(self.before), _high(self.after))

    def judged(self) -> str:
        """``worse`` or ``better`` if the figure has a target, else ``differs``."""
        target = next((one for one in TARGETS.get(self.bench, ()) if one.figure == self.figure), None)
        if target is None:
            return "differs"
        return "better" if (self.after.value < self.before.value) == (target.sense == "<=") else "worse"


def _low(figure: Figure) -> float:
    return figure.value if figure.minimum is None else min(figure.minimum, figure.value)


def _high(figure: Figure) -> float:
    return figure.value if figure.maximum is None else max(figure.maximum, figure.value)


def changes(before: ResultFile, after: ResultFile) -> list[Change]:
    """Every figure that both files have."""
    out = []
    for bench in before.benches:
        if bench in after.benches:
            old, new = before.figures(bench), after.figures(bench)
            out += [Change(bench, name, old[name], new[name]) for name in old if name in new]
    return out


def only_in_one(before: ResultFile, after: ResultFile) -> list[str]:
    """``A: worker.frames_per_s`` for each figure that only one file has."""
    names = [{f"{bench}.{name}" for bench in file.benches for name in file.figures(bench)} for file in (before, after)]
    return [f"A: {name}" for name in sorted(names[0] - names[1])] + [
        f"B: {name}" for name in sorted(names[1] - names[0])
    ]


def text(before: ResultFile, after: ResultFile, tolerance: float) -> tuple[str, bool]:
    """The printed table, and whether all changes are within the tolerance."""
    lines = [f"{side}: {_about(file)}" for side, file in (("A", before), ("B", after))]
    lines += ["", f"{'figure':44} {'A':>14} {'B':>14} {'B / A':>8}"]
    inside = True
    for change in changes(before, after):
        outside = change.outside(tolerance)
        inside = inside and not outside
        name = f"{change.bench}.{change.figure}"
        mark = f"   {change.judged().upper()}" if outside else ""
        values = f"{shown(change.before.value):>14} {shown(change.after.value):>14} {change.ratio:>8.3f}"
        lines.append(f"{name:44} {values}{mark}")
        if change.before.minimum is not None or change.after.minimum is not None:
            lines.append(f"{'  min .. max of repeats':44} {_range(change.before):>14} {_range(change.after):>14}")
    lines += [f"only in {name}" for name in only_in_one(before, after)]
    said = (
        f"within {tolerance:.0%}, or within the spread of the repeats"
        if inside
        else f"outside {tolerance:.0%}: see above"
    )
    return "\n".join([*lines, "", said]), inside


def _range(figure: Figure) -> str:
    if figure.minimum is None or figure.maximum is None:
        return "-"
    return f"{shown(figure.minimum)} .. {shown(figure.maximum)}"


def _about(file: ResultFile) -> str:
    machine = file.about.get("machine", {})
    parts = [file.name, file.about.get("taken_at"), file.about.get("commit"), machine.get("cpu"), machine.get("kernel")]
    return ", ".join(str(part) for part in parts if part)


def main(arguments: list[str]) -> int:
    """Print the comparison; 0 if all changes are within the tolerance, 1 if not, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser("python -m bench compare", description=__doc__)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"share, either way ({TOLERANCE:g})")
    options = parser.parse_args(arguments)
    if not options.tolerance >= 0:
        parser.error(f"--tolerance is {options.tolerance}, must be 0 or more")
    try:
        before, after = read(options.before), read(options.after)
    except (BadResult, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    said, inside = text(before, after, options.tolerance)
    print(said)
    return 0 if inside else 1
