"""``python -m bench keep NAME OUTPUT FILE.json``: store the result of one benchmark in a result file.

OUTPUT is what ``python -m bench NAME --json`` or a separate command (nab, flags, peers, ...) printed, or a file of
``--output``. FILE is a result file, which keeps its other benchmarks, or a new one.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.figures import ABOUT, BadResult
from bench.harness.report import machine
from bench.paper_tables import BENCHES, COMMANDS


def entry(name: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of one benchmark in its output, and what the output says about the run.

    Raises
    ------
    BadResult
        If neither the file nor its last line is a JSON object, or it has no result of this benchmark.
    """
    found = _object(path)
    about = {key: found[key] for key in ABOUT if key in found}
    if "benches" in found:
        if name not in found["benches"]:
            failed = found.get("failed", {})
            why = f"it failed: {failed[name]}" if name in failed else f"it has {', '.join(found['benches']) or 'none'}"
            raise BadResult(f"{path}: no result of {name}; {why}")
        return found["benches"][name], about
    if found.get("bench", name if name in COMMANDS else None) != name:
        raise BadResult(f"{path}: a result of {found.get('bench', 'no benchmark')}, not of {name}")
    return {key: value for key, value in found.items() if key not in ABOUT} | {"bench": name}, about


def _object(path: Path) -> dict[str, Any]:
    text = path.read_text()
    for part in (text, text.strip().rpartition("\n")[2]):
        try:
            found = json.loads(part)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    raise BadResult(f"{path}: neither the file nor its last line is a JSON object")


def main(arguments: list[str]) -> int:
    """Write the file; 2 if the output has no results."""
    parser = argparse.ArgumentParser("python -m bench keep", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES), metavar="NAME", help=" ".join(sorted(BENCHES)))
    parser.add_argument("output", type=Path, help="what the benchmark printed, or a file of --output")
    parser.add_argument("file", type=Path, help="the result file")
    given = parser.parse_args(arguments)
    try:
        result, about = entry(given.name, given.output)
        whole = json.loads(given.file.read_text()) if given.file.exists() else {"machine": machine()} | about
        whole.setdefault("taken_at", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        whole.setdefault("benches", {})[given.name] = result
        if given.name in whole.get("failed", {}):
            del whole["failed"][given.name]
    except (BadResult, OSError, ValueError, AttributeError) as error:
        print(error, file=sys.stderr)
        return 2
    given.file.write_text(json.dumps(whole, indent=1) + "\n")
    return 0
