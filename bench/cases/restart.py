"""An edge restarts under load: frames lost by a kill -9, a restart and an upgrade, and the time without a reader.

The benchmark is the edge's supervisor: it holds the socket, like ``klais up``, ``klais edge --workers`` and systemd. A
simulator sends 20,000 frames/s. Halfway the edge is killed (``kill9``) or stopped by SIGTERM (``restart``), and the
next process inherits the socket; or the next process starts first, and the old one ends when the new one receives
(``upgrade``, as SIGUSR2 does). Sent frames that are not in ``klais_raw`` are lost. ``deaf_ms`` is the time from the end
of the old process to the last lost frame sent after it: 0 if socket and edge kept all frames.
"""

import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import DEVICES, Bench, BenchFailed, environment, get_json, wait_for
from bench.harness.report import Result, rounded
from klais.config.load import Settings
from klais.kafka.offsets import begin_offsets, end_offsets
from klais.kafka.topics import Topics
from klais.sim.manifest import read_manifest
from klais.system.activation import HeldSocket
from klais.system.address import Bind, open_udp_socket
from klais.system.ports import free_port
from klais.system.supervised import Service
from klais.verify.readback import read_topic_columns

RATE = 20_000
BEFORE_S, AFTER_S = 5.0, 8.0
REPEATS = 3
TICK_S = 0.1  # the poll interval of our supervisors


@dataclass(frozen=True, slots=True)
class Restart:
    """One restart: frames, and times in ms until the old process ended, and from then until the new one received."""

    sent: int
    lost: int
    kernel_drops: int
    deaf_ms: float
    ended_ms: float
    away_ms: float


def run(bench: Bench) -> Result:
    """Run all kinds of restart, several times in turn; the worst of each is the figure."""
    result = Result("restart")
    kinds = {"kill9": signal.SIGKILL, "restart": signal.SIGTERM, "upgrade": None}
    found: dict[str, list[Restart]] = {name: [] for name in kinds}
    for _ in range(REPEATS):
        for name, number in kinds.items():
            found[name].append(restart(bench, number))
            result.rows.append(
                {"restart": name} | {key: rounded(value) for key, value in asdict(found[name][-1]).items()}
            )
    for name, restarts in found.items():
        result.figures[f"lost_{name}"] = max(one.lost for one in restarts)
        result.figures[f"away_ms_{name}"] = rounded(max(one.away_ms for one in restarts))
    result.figures["deaf_ms"] = rounded(max(one.deaf_ms for restarts in found.values() for one in restarts))
    result.notes.append(
        f"{RATE:,} frames/s, {REPEATS} restarts of each kind, the worst; lost = sent and not in klais_raw"
    )
    return result


def restart(bench: Bench, number: signal.Signals | None) -> Restart:
    """Run one restart under load; ``number`` None = an upgrade."""
    manifest = bench.folder / f"restart-{time.monotonic_ns()}.manifest"
    with bench.topics(partitions=4) as settings:
        udp = open_udp_socket(Bind.parse(settings.udp_bind), share_port=False)
        held = HeldSocket(udp, settings.udp_rcvbuf_bytes)
        log = bench.folder / f"edge-{time.monotonic_ns()}.log"
        env = environment(settings) | {"KLAIS_LOG_FORMAT": "json"}
        edge = Service("edge", [sys.executable, "-m", "klais", "edge"], env, log, held.spawn, restart_at_once=True)
        try:
            edge.start()
            wait_for(lambda: _receives(settings), 60, "the edge receives")
            total_s = BEFORE_S + AFTER_S
            load = ("--devices", str(DEVICES), "--rate", str(RATE), "--for", f"{total_s:g}s")
            options = (*load, "--manifest", str(manifest))
            with bench.simulate(settings, *options) as sender:
                time.sleep(BEFORE_S)
                if number is None:
                    settings, times = _upgrade(edge, settings, held, env, log)
                else:
                    times = _replace(edge, settings, number)
                sent = int(sender.summary(total_s + 30)["frames"])
            wait_for(lambda: not _in_hand(settings), 60, "nothing is left in the edge", 0.2)
            drops = int(_edge(settings)["counters"]["dropped"].get("kernel_drop", 0))
        finally:
            edge.stop(20.0)
            held.close()
        return _judge(settings, manifest, sent, drops, times)


def _replace(edge: Service, settings: Settings, number: signal.Signals) -> tuple[int, int, int]:
    """End the process; return the times of signal, exit and first receive of the next one (ns since the epoch)."""
    before, asked_ns, gone_ns = edge.pid, time.time_ns(), 0
    edge.signal(number)
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        if not gone_ns and edge.returncode is not None:
            gone_ns = time.time_ns()
        edge.poll()
        if gone_ns and edge.pid not in (None, before) and _receives(settings):
            return asked_ns, gone_ns, time.time_ns()
        time.sleep(TICK_S / 10)
    raise BenchFailed(f"the edge did not come back:\n{edge.last_lines()}")


def _upgrade(
    edge: Service, settings: Settings, held: HeldSocket, env: dict[str, str], log: Path
) -> tuple[Settings, tuple[int, int, int]]:
    """Start the next process, and end the present one when the new one receives; return the settings of the new API."""
    before, asked_ns, port = edge.pid, time.time_ns(), free_port()
    settings = settings.model_copy(update={"api_bind": f"127.0.0.1:{port}"})
    command = [sys.executable, "-m", "klais", "edge", "--api-bind", settings.api_bind, "--successor"]
    successor = held.spawn(command, log, env, beside=True)
    # It is not healthy yet: it gets the spool when the old process ends.
    wait_for(lambda: get_json(f"http://{settings.api_bind}/stats") is not None, 120, "the next process receives")
    back_ns = time.time_ns()
    edge.replace(successor, command)
    wait_for(lambda: before is None or not Path(f"/proc/{before}").exists(), 60, "the old process ends", 0.01)
    return settings, (asked_ns, time.time_ns(), back_ns)


def _judge(settings: Settings, path: Path, sent: int, drops: int, times: tuple[int, int, int]) -> Restart:
    asked_ns, gone_ns, back_ns = times
    manifest, topic = read_manifest(path), Topics.of(settings).raw
    landed = read_topic_columns(settings, topic, begin_offsets(settings, topic), end_offsets(settings, topic))
    if manifest.count != sent:
        raise BenchFailed(f"the manifest has {manifest.count:,} of {sent:,} frames")
    missing = ~np.isin(manifest.hashes, landed.hashes)
    late = manifest.sent_at_ns[missing & (manifest.sent_at_ns > gone_ns)]
    deaf_ms = float(late.max() - gone_ns) / 1e6 if len(late) else 0.0
    return Restart(sent, int(missing.sum()), drops, deaf_ms, (gone_ns - asked_ns) / 1e6, (back_ns - gone_ns) / 1e6)


def _edge(settings: Settings) -> dict[str, dict[str, Any]]:
    stats = get_json(f"http://{settings.api_bind}/stats")
    if stats is None:
        raise BenchFailed("the edge does not answer")
    edge: dict[str, dict[str, Any]] = stats["edge"]
    return edge


def _in_hand(settings: Settings) -> int:
    return int(_edge(settings)["gauges"]["queue_depth"])


def _receives(settings: Settings) -> bool:
    return get_json(f"http://{settings.api_bind}/health") is not None
