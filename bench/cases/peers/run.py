"""``python -m bench peers``: other gateways and stream processors beside KLAIS, in turns within one run.

Gateways get the same frames from the same sender (plain ``sendmmsg``, no GSO) over UDP and write to the same Kafka,
acks=all, lz4, a linger of 10 ms (asyncio: 5), on one core; KLAIS and rsyslog also with their defaults, and rsyslog with
the 70 ms that KLAIS waits by default. Those that corrupt binary get text of the same length.
Lost = sent - what is in the topic. Workers get the same backlog. A peer that is not there is named with the reason.
What each does not do stands beside its figures: most do much less than KLAIS.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.cases.peers import install
from bench.cases.peers.catalog import GATEWAYS, WORKERS, Peer, missing
from bench.cases.peers.gateways import gateway
from bench.cases.peers.probe import PROBES, at_rate, first_frames, highest
from bench.cases.peers.workers import measure_worker
from bench.harness import Bench, BenchFailed
from bench.harness.report import Result, machine, rounded
from klais.cli.version import versions

RATES = (20_000, 60_000)
SECONDS, REPEATS = 5.0, 3
PAIRS = {  # equal linger of 10 ms; each with its own defaults; equal linger of 70 ms, the default of KLAIS
    "rsyslog": ("klais", "rsyslog"),
    "rsyslog_defaults": ("klais_defaults", "rsyslog_defaults"),
    "rsyslog_70ms": ("klais_defaults", "rsyslog_70ms"),
}
AGAIN = 1.2  # growth of the rate where an earlier repeat found one
Found = dict[str, Any]
_STEADY = ("gateway_us", "broker_us", "both_us", "lost")


def progress(text: str) -> None:
    """A line on standard error."""
    print(f"   {text}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Comparison:
    """One run: which peers, how long, how often; ``without`` says why a peer has no figures."""

    bench: Bench
    rates: Sequence[int] = RATES
    seconds: float = SECONDS
    repeats: int = REPEATS
    probes: int = PROBES
    result: Result = field(default_factory=lambda: Result("peers"))
    without: dict[str, str] = field(default_factory=dict)

    def in_turns(self, part: str, peers: Sequence[Peer], measure: Callable[[Peer, Found | None], Found]) -> None:
        """Each peer once in each repeat, then its rows and figures; one that fails is not tried again."""
        found: dict[str, list[Found]] = {peer.label: [] for peer in peers}
        for number in range(self.repeats):
            for peer in peers if number % 2 == 0 else peers[::-1]:  # whatever drifts, drifts for all
                runs = found[peer.label]
                self.bench.say(f"peers: {peer.title}, repeat {number + 1} of {self.repeats}")
                why = self.without.get(peer.title) or missing(peer)
                if why is None:
                    try:
                        runs.append(measure(peer, runs[-1] if runs else None))
                    except BenchFailed as error:
                        why = str(error)
                    except Exception:
                        why = traceback.format_exc()
                if why is not None and peer.title not in self.without:
                    self.without[peer.title] = why
                    self.bench.say(f"peers: {peer.title} cannot be measured: {why}")
        for peer in peers:
            row: Found = {"part": part, "peer": peer.title}
            if runs := found[peer.label]:
                row |= self._figures(peer, runs)
            if peer.title in self.without:
                row["not_measured"] = self.without[peer.title].strip().splitlines()[-1]
            self.result.rows.append(row | peer.does.public())

    def _figures(self, peer: Peer, runs: list[Found]) -> Found:
        """The medians of one peer's repeats."""
        out: Found = {}
        for name, value in runs[0].items():
            if isinstance(value, bool | str) or name == "probes":
                out[name] = value
                continue
            figure = f"{name}_{peer.label}"
            self.result.repeat(figure, [run[name] for run in runs])
            out[name] = self.result.figures[figure]
        return out

    def gateway(self, peer: Peer, earlier: Found | None) -> Found:
        """One repeat of one gateway: each fixed rate, then the highest rate without a loss."""
        with gateway(self.bench, peer, max(os.sched_getaffinity(0))) as at:
            first_frames(self.bench, at)
            steady = {rate: at_rate(self.bench, at, rate, self.seconds) for rate in self.rates}
            clean = [rate for rate, row in steady.items() if not row["lost"]]
            start = earlier["highest_per_s"] if earlier else 0
            start = start or max(clean, default=min(self.rates) / 2)
            best = highest(self.bench, at, start, self.seconds, AGAIN if earlier else 2.0, self.probes)
        out = {f"{name}_{rate // 1000}k": row[name] for rate, row in steady.items() for name in _STEADY}
        return out | best | {"frames": "text" if peer.text else "binary"}

    def worker(self, peer: Peer, _: Found | None) -> Found:
        """One repeat of one worker."""
        return measure_worker(self.bench, peer, self.seconds)

    def ratios(self) -> None:
        """What the verdicts are about."""
        figures = self.result.figures
        for rate in self.rates:
            at = f"{rate // 1000}k"
            for figure, part in (("gateway_and_broker", "both"), ("broker", "broker")):
                for name, pair in PAIRS.items():
                    ours, theirs = (figures.get(f"{part}_us_{at}_{label}") for label in pair)
                    if ours and theirs:
                        figures[f"{figure}_of_{name}_{at}"] = rounded(ours / theirs)
        ours, theirs = (figures.get(f"worker_us_{name}") for name in ("klais", "quixstreams"))
        if ours and theirs:
            figures["worker_times_cheaper_than_quixstreams"] = rounded(theirs / ours)
        self.result.notes += [
            "us: CPU time a frame; both: gateway and broker; at 20k and 60k: frames/s; min and max over the repeats",
            "the gateway has one core; sender and broker share all; no GSO; lz4, acks=all, linger 10 ms (asyncio 5)",
            "frames as text: `<134>` and the id in place of the binary header, the same length",
            f"receive buffers: syslog-ng and Tenzir at most net.core.rmem_max, {_rmem_max()} bytes, the others 64 MiB",
            "what a peer does is from its documentation",
        ]


def _rmem_max() -> str:
    with open("/proc/sys/net/core/rmem_max") as file:
        return file.read().strip()


def table(comparison: Comparison) -> str:
    """The result for people, and who has no figures."""
    lines = [comparison.result.text()]
    lines += [f"  without {title}: {why.strip().splitlines()[-1]}" for title, why in comparison.without.items()]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench peers", description=__doc__, formatter_class=layout)
    parser.add_argument("--install", action="store_true", help="install the peers, each into its own folder, and end")
    parser.add_argument("--only", default="", metavar="NAME,...", help="these peers only")
    parser.add_argument("--part", choices=("gateway", "worker"), help="these only")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"measured at each rate ({SECONDS:g})")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"of each peer, in turns ({REPEATS})")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="fixed rates, frames/s, thousands")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser


def main(arguments: list[str]) -> int:
    """Install or compare; 1 when one of ours could not be measured, or a peer could not be installed."""
    options = _parser().parse_args(arguments)
    only = {name for name in options.only.split(",") if name}
    chosen = {
        part: [peer for peer in peers if (not only or peer.name in only) and options.part in (None, part)]
        for part, peers in (("gateway", GATEWAYS), ("worker", WORKERS))
    }
    if options.install:
        return 1 if install.install([*chosen["gateway"], *chosen["worker"]], progress) else 0
    about: Found = {"machine": machine(), "versions": versions()}
    print("  ".join(f"{k}={v}" for k, v in about["machine"].items()), flush=True)
    began_s = time.monotonic()
    with Bench(progress) as bench:
        rates = tuple(int(rate) for rate in options.rates.split(","))
        comparison = Comparison(bench, rates, options.seconds, options.repeats)
        busy_s, ours_s = bench.busy_s()
        comparison.in_turns("gateway", chosen["gateway"], comparison.gateway)
        comparison.in_turns("worker", chosen["worker"], comparison.worker)
        comparison.ratios()
        result, (busy_end_s, ours_end_s) = comparison.result, bench.busy_s()
        result.seconds = time.monotonic() - began_s
        result.others_cores = max(0.0, (busy_end_s - busy_s - (ours_end_s - ours_s)) / result.seconds)
    print(table(comparison), flush=True)
    if options.json:
        print(json.dumps(about | result.public() | {"without": comparison.without}))
    return 1 if any(title.startswith("KLAIS") for title in comparison.without) else 0
