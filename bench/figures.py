"""Read the result files that ``python -m bench`` writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# Keys that are not figures: in the entry of one benchmark, and in the file of one run.
ABOUT = ("machine", "versions", "commit", "taken_at", "failed", "skipped")
_AROUND = {"bench", "spread", "held_to", "rows", "notes", "series", "took_s", "others_cores", "benches", *ABOUT}


class BadResult(Exception):
    """A file without benchmark results."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, with minimum and maximum of its repeats if it was measured several times."""

    value: float
    minimum: float | None = None
    maximum: float | None = None
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class ResultFile:
    """All benchmarks of one file; ``about`` has time, machine and versions."""

    name: str
    about: dict[str, Any]
    benches: dict[str, dict[str, Any]]

    def figures(self, bench: str) -> dict[str, Figure]:
        """Numeric figures of one benchmark, by name, in the order of the file."""
        found = self.benches[bench]
        return {name: _figure(value, found.get("spread", {}).get(name)) for name, value in _numbers(found)}


def _numbers(found: Mapping[str, Any], under: str = "") -> list[tuple[str, float]]:
    """All numbers by name; those of a nested object have its name and a dot as prefix."""
    out: list[tuple[str, float]] = []
    for name, value in found.items():
        if isinstance(value, Mapping) and name not in _AROUND:
            out += _numbers(value, f"{under}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in _AROUND:
            out.append((under + name, value))
    return out


def _figure(value: float, spread: Mapping[str, float] | None) -> Figure:
    if spread is None:
        return Figure(value)
    return Figure(value, spread["min"], spread["max"], int(spread["repeats"]))


def read(path: Path) -> ResultFile:
    """Read a file of all benchmarks, or of one (the last line of ``--json``; earlier lines are ignored).

    Raises
    ------
    BadResult
        If it is not JSON or contains no benchmark; the text names the file.
    """
    text = path.read_text()
    try:
        whole = json.loads(text)
    except ValueError:
        try:
            whole = json.loads(text.strip().rpartition("\n")[2])
        except ValueError as error:
            raise BadResult(f"{path}: neither the file nor its last line is JSON: {error}") from None
    if not isinstance(whole, dict) or not ("benches" in whole or "bench" in whole):
        raise BadResult(f"{path}: no benchmark in it; write it with python -m bench --output FILE")
    benches = whole["benches"] if "benches" in whole else {whole["bench"]: whole}
    about = {name: whole[name] for name in ABOUT if name in whole}
    return ResultFile(path.stem, about, benches)
