"""Run benchmarks one after the other, print their figures, store them as JSON."""

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from bench.figures import RESULTS
from bench.harness import REPO, Bench, BenchFailed
from bench.harness.report import Result, machine
from klais.cli.version import versions

NAMES = (
    "worker",
    "edge",
    "sources",
    "path",
    "latency",
    "checkpoint",
    "scale",
    "memory",
    "recovery",
    "baseline",
    "ablation",
    "kernels",
    *("herd", "overload", "xdp", "auth", "flood", "hostile", "restart", "start", "flush", "page", "idle"),
)
WITHOUT_BROKER = {"kernels", "xdp", "auth", "flood", "hostile"}  # the last three start their own broker
LATEST = RESULTS / "latest.json"


def main(arguments: list[str], description: str = "") -> int:
    """Run the benchmarks that the command line names."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench", description=description, formatter_class=layout)
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(NAMES))
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--output", type=Path, help="where the figures of all go (bench/results/latest.json)")
    options = parser.parse_args(arguments)
    names = options.names or list(NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {' '.join(sorted(unknown))}; there are {' '.join(NAMES)}")
    about: dict[str, Any] = {"machine": machine(), "versions": versions(), "commit": _commit()}
    print("  ".join(f"{k}={v}" for k, v in about["machine"].items()))
    print("  ".join(f"{k}={v}" for k, v in about["versions"].items() if v), flush=True)
    results, failed = _run(names)
    about["taken_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    figures = {result.name: result.public() for result in results}
    if output := options.output or (None if options.names else LATEST):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({**about, "failed": failed, "benches": figures}, indent=1) + "\n")
        print(f"written to {output}")
    if options.json:
        alone = figures.get(names[0]) if len(names) == 1 else None
        print(json.dumps(about | (alone or {"benches": figures, "failed": failed})))
    return 1 if failed else 0


def _run(names: list[str]) -> tuple[list[Result], dict[str, str]]:
    results: list[Result] = []
    failed: dict[str, str] = {}
    broker = not WITHOUT_BROKER.issuperset(names)  # an idle broker would still use CPU
    with Bench(lambda text: print(f"   {text}", file=sys.stderr, flush=True), broker) as bench:
        for name in names:
            began_s, (busy_s, ours_s) = time.monotonic(), bench.busy_s()
            try:
                result = importlib.import_module(f"bench.cases.{name}").run(bench)
            except Exception as error:  # the other benchmarks still run
                failed[name] = str(error) if isinstance(error, BenchFailed) else traceback.format_exc()
                print(f"== {name} FAILED ==\n{failed[name]}", flush=True)
                continue
            result.seconds = time.monotonic() - began_s
            busy_end_s, ours_end_s = bench.busy_s()
            result.others_cores = max(0.0, (busy_end_s - busy_s - (ours_end_s - ours_s)) / result.seconds)
            results.append(result)
            print(result.text(), flush=True)
    return results, failed


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
