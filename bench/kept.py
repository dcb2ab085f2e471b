"""All kept result files: each benchmark comes from the newest file that has it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Figure, ResultFile
from bench.harness.report import shown

NOT_MEASURED = "not measured"


@dataclass(slots=True)
class KeptSamples:
    """Result files, with the source of each benchmark: the newest file that has it."""

    files: Sequence[ResultFile]
    missing: list[str] = field(default_factory=list)  # requested figures that no file has

    def file_of(self, bench: str) -> ResultFile | None:
        """The newest file with this benchmark."""
        having = [file for file in self.files if bench in file.benches]
        return max(having, key=lambda file: (str(file.about.get("taken_at", "")), file.name), default=None)

    def figure(self, path: str) -> Figure | None:
        """The figure ``BENCH.NAME``; the name may have dots."""
        bench, _, name = path.partition(".")
        file = self.file_of(bench)
        found = file.figures(bench).get(name) if file is not None else None
        if found is None:
            self.missing.append(path)
        return found

    def rows(self, bench: str) -> list[dict[str, Any]]:
        """The rows (details) of a benchmark."""
        file = self.file_of(bench)
        return list(file.benches[bench].get("rows", ())) if file is not None else []


def cell(figure: Figure | None) -> str:
    """A figure in a table."""
    return shown(figure.value) if figure is not None else NOT_MEASURED


def spread(figure: Figure | None) -> str:
    """Minimum and maximum of the repeats; empty if there was one measurement."""
    if figure is None or figure.minimum is None or figure.maximum is None:
        return ""
    return f"{shown(figure.minimum)} to {shown(figure.maximum)}"
