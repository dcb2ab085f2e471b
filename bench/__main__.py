"""``python -m bench``: run benchmarks on a real Kafka, compare two result files, write bench/RESULTS.md.

    python -m bench [NAME ...] [--json] [--output FILE]   run; without a name all, to bench/results/latest.json
    python -m bench compare A.json B.json                 ratio of each figure; 1 when one is out of its tolerance
    python -m bench results                               bench/RESULTS.md and the paper from bench/results/*.json
    python -m bench keep NAME OUTPUT FILE.json            store the --json output of one of them in a result file
    python -m bench outage [--seconds S]                  the broker away under load; every frame is counted
    python -m bench peers [--install]                     other gateways and stream processors in the same run
    python -m bench nab|flags DIR, bench fleet             the anomaly scorer, see docs/intelligence.md
    python -m bench fingerprint                           types of devices: recall of changes, false flags, cost
    python -m bench traffic [DIR]                         the forecast's model on later days of traces
    python -m bench loop                                  the control loop with each forecast, in virtual time
    python -m bench llm [DIR]                             the language model: classes, explanations

With ``--json`` the last line of standard output is one JSON object: the figures of the named benchmark, or one entry
for each. KLAIS_KAFKA_BOOTSTRAP names a cluster to use instead of an embedded broker. The run ends with the verdict on
each must. A benchmark that this machine cannot run is skipped, and the output says what it needs. The exit code is 0
even if a target is missed or a benchmark is skipped, and 1 if one could not measure its figures.
"""

import importlib
import sys
from collections.abc import Callable

COMMANDS = {
    "compare": "bench.compare",
    "results": "bench.results",
    "keep": "bench.keep",
    "outage": "bench.cases.outage",
    "peers": "bench.cases.peers.run",
    "nab": "bench.cases.anomaly.nab",
    "flags": "bench.cases.anomaly.flags",
    "fleet": "bench.cases.anomaly.fleet",
    "fingerprint": "bench.cases.fingerprint.run",
    "traffic": "bench.cases.traffic",
    "loop": "bench.cases.loop.run",
    "llm": "bench.cases.llm",
}


def main(arguments: list[str]) -> int:
    """Run the command named by the first argument; by default run benchmarks."""
    if arguments and arguments[0] in COMMANDS:
        command: Callable[[list[str]], int] = importlib.import_module(COMMANDS[arguments[0]]).main
        return command(arguments[1:])
    run = importlib.import_module("bench.run")  # loads the Kafka clients, which the other commands do not need
    return int(run.main(arguments, __doc__ or ""))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
