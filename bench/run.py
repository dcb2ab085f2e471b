"""Run benchmarks one after the other, print their figures, store them as JSON."""

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import RESULTS
from bench.harness import REPO, Bench, BenchFailed, BenchUnavailable
from bench.harness.report import Result, machine
from bench.verdicts import verdicts
from klais.cli.version import versions
from klais.errors import KafkaUnavailable, SetupMissing, SourceUnavailable, XdpUnavailable

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
    run = _run(names)
    about["taken_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    figures = {result.name: result.public() for result in run.results}
    about |= {"skipped": run.skipped} if run.skipped else {}
    print("\n".join(verdicts(names, run.results, run.skipped, run.failed)), flush=True)
    if output := options.output or (None if options.names else LATEST):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({**about, "failed": run.failed, "benches": figures}, indent=1) + "\n")
        print(f"written to {output}")
    if options.json:
        alone = figures.get(names[0]) if len(names) == 1 else None
        print(json.dumps(about | (alone or {"benches": figures, "failed": run.failed})))
    return 1 if run.failed else 0


@dataclass(slots=True)
class Run:
    """Results of the benchmarks that ran, and by name why others did not: ``skipped`` ones cannot run here."""

    results: list[Result] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def one(self, name: str, bench: Bench) -> None:
        """Run a benchmark; an error does not keep the next ones from running."""
        began_s, (busy_s, ours_s) = time.monotonic(), bench.busy_s()
        try:
            result = importlib.import_module(f"bench.cases.{name}").run(bench)
        except Exception as error:
            self.note(name, error)
            return
        result.seconds = time.monotonic() - began_s
        busy_end_s, ours_end_s = bench.busy_s()
        result.others_cores = max(0.0, (busy_end_s - busy_s - (ours_end_s - ours_s)) / result.seconds)
        self.results.append(result)
        print(result.text(), flush=True)

    def note(self, name: str, error: Exception) -> None:
        """Print and keep why a benchmark has no figures."""
        if why := unavailable(error):
            self.skipped[name] = why
            print(f"== {name} skipped ==\n{why}", flush=True)
            return
        self.failed[name] = str(error) if isinstance(error, BenchFailed) else "".join(traceback.format_exception(error))
        print(f"== {name} FAILED ==\n{self.failed[name]}", flush=True)


def unavailable(error: Exception) -> str:
    """What a benchmark needs that this machine, or this user, does not have; empty if the error has another cause."""
    if isinstance(error, BenchUnavailable | SetupMissing | SourceUnavailable | XdpUnavailable):
        return str(error)
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and not error.name.startswith(("bench", "klais", "agents"))
    ):
        return f"the module {error.name} is not installed: run `make setup`"
    if isinstance(error, FileNotFoundError) and error.filename and "/" not in str(error.filename):
        return f"the program {error.filename} is not installed: install it"
    return ""


def _run(names: list[str]) -> Run:
    run, say = Run(), lambda text: print(f"   {text}", file=sys.stderr, flush=True)
    rest = [name for name in names if name in WITHOUT_BROKER]
    broker = len(rest) < len(names)  # an idle broker would still use CPU
    try:
        with Bench(say, broker) as bench:
            for name in names:
                run.one(name, bench)
            return run
    except (SetupMissing, KafkaUnavailable) as error:  # only the start of the broker raises it here
        for name in names:
            if name not in rest:
                run.note(name, error if isinstance(error, SetupMissing) else BenchFailed(f"no broker: {error}"))
    with Bench(say, broker=False) as bench:
        for name in rest:
            run.one(name, bench)
    return run


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
