"""``python -m bench keep NAME OUTPUT FILE.json``: store the ``--json`` output of a benchmark in a result file.

For benchmarks with separate commands (nab, flags, fleet, fingerprint, traffic, loop, llm, peers), which need data or
programs that are not in the repository, or hours. FILE is a file written by ``python -m bench --output``, or a new one.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from bench.figures import BadResult
from bench.harness.report import machine
from bench.paper_tables import COMMANDS


def last_object(path: Path) -> dict[str, object]:
    """The JSON object in the last line of a file.

    Raises
    ------
    BadResult
        There is none.
    """
    try:
        found = json.loads(path.read_text().strip().rpartition("\n")[2])
    except ValueError as error:
        raise BadResult(f"{path}: the last line is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadResult(f"{path}: the last line is no JSON object")
    return found


def main(arguments: list[str]) -> int:
    """Write the file; 2 if the output has no results."""
    parser = argparse.ArgumentParser("python -m bench keep", description=__doc__)
    parser.add_argument("name", choices=COMMANDS)
    parser.add_argument("output", type=Path, help="what the benchmark printed; its last line counts")
    parser.add_argument("file", type=Path, help="the result file")
    given = parser.parse_args(arguments)
    try:
        whole = json.loads(given.file.read_text()) if given.file.exists() else {"machine": machine()}
        whole.setdefault("taken_at", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        whole.setdefault("benches", {})[given.name] = last_object(given.output) | {"bench": given.name}
    except (BadResult, OSError, ValueError, AttributeError) as error:
        print(error, file=sys.stderr)
        return 2
    given.file.write_text(json.dumps(whole, indent=1) + "\n")
    return 0
