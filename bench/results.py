"""``python -m bench results``: write bench/RESULTS.md, docs/plots and the figures of the paper from bench/results/."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import paper, plots
from bench.figures import RESULTS, ResultFile, read
from bench.harness.report import TARGETS, Target, shown
from bench.kept import KeptSamples

PAGE = Path(__file__).parent / "RESULTS.md"
OWN = "latest"  # local files of a developer, by their prefix: git and this page ignore them
WIDTH = 120
_HEAD = """# Results of the benchmarks

`python -m bench results` writes this page from the files in `bench/results/`: do not edit it. `bench/README.md` says
how to run the benchmarks and what each one measures. A repeated figure is the median unless a note says otherwise. In
the last column, *must* is the required bound and *goal* a stricter one.
"""


def kept(folder: Path = RESULTS) -> list[Path]:
    """The result files that the page shows, by name."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith(OWN))


def page(files: Sequence[ResultFile]) -> str:
    """The whole page."""
    if not files:
        return _HEAD + "\nNo results are kept yet. `python -m bench --output bench/results/NAME.json` makes some.\n"
    return "\n".join([_HEAD, *(part for file in files for part in _of_file(file))])


def _of_file(file: ResultFile) -> list[str]:
    machine, versions = file.about.get("machine", {}), file.about.get("versions", {})
    said = [f"- {name}: {value}" for name, value in (("taken at", file.about.get("taken_at")),) if value]
    said += [f"- commit: {file.about['commit']}"] if file.about.get("commit") else []
    said += _wrapped("- machine: ", [f"{name} {value}" for name, value in machine.items()])
    said += _wrapped("- versions: ", [f"{name} {value}" for name, value in versions.items() if value])
    said += [f"- failed: {', '.join(sorted(file.about['failed']))}"] if file.about.get("failed") else []
    out = [f"## {file.name}", "", *said, ""]
    for bench in file.benches:
        out += [f"### {bench}", "", *_table(file, bench), ""]
        out += [line for note in file.benches[bench].get("notes", ()) for line in _wrapped("- ", note.split(" "), " ")]
        out += [""] if file.benches[bench].get("notes") else []
    return out


def _table(file: ResultFile, bench: str) -> list[str]:
    targets = {target.figure: target for target in TARGETS.get(bench, ())}
    lines = ["| figure | value | min | max | repeats | held to |", "|---|---:|---:|---:|---:|---|"]
    for name, figure in file.figures(bench).items():
        spread = [shown(v) if v is not None else "" for v in (figure.minimum, figure.maximum)]
        repeats = str(figure.repeats) if figure.minimum is not None else ""
        held = _held(targets[name], figure.value) if name in targets else ""
        lines.append(f"| `{name}` | {shown(figure.value)} | {spread[0]} | {spread[1]} | {repeats} | {held} |")
    return lines


def _held(target: Target, value: float) -> str:
    bounds = [(kind, bound) for kind, bound in (("must", target.must), ("goal", target.goal)) if bound is not None]
    said = ", ".join(f"{kind} {target.sense} {shown(bound)}" for kind, bound in bounds)
    return f"{said} {target.unit}: {target.verdict(value)}".replace(" :", ":")


def _wrapped(head: str, words: Sequence[Any], between: str = ", ") -> list[str]:
    """``head`` and the words in lines of at most WIDTH characters, indented by the length of the head."""
    lines = [head]
    for n, word in enumerate(words):
        piece = str(word) + (between.rstrip() if n < len(words) - 1 else "")
        gap = "" if lines[-1].endswith(" ") else " "
        if len(lines[-1]) + len(gap) + len(piece) > WIDTH:
            lines.append("  " + piece)
        else:
            lines[-1] += gap + piece
    return lines


def main(arguments: list[str]) -> int:
    """Write the page, the plots and the paper; print the figures of the paper that no file has."""
    argparse.ArgumentParser("python -m bench results", description=__doc__).parse_args(arguments)
    files = [read(path) for path in kept()]
    PAGE.write_text(page(files))
    missing = paper.write(files)
    made = plots.write(KeptSamples(files))
    print(f"{PAGE}: {len(files)} result files")
    print(f"{plots.FOLDER}: {', '.join(made)}")
    print(f"{paper.PAPER}: {len(missing)} figures not measured" + (f": {', '.join(missing)}" if files else ""))
    return 0
