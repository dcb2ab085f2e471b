"""Runs a herd against a running system: sends frames when due, reads ``iot_telemetry``, and counts drops from
``klais_stats``."""

import math
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, KlaisError
from klais.kafka.clients import confluent_config
from klais.kafka.stats import StatsFollower
from klais.kafka.topics import Topics
from klais.sim import kernels
from klais.sim.herd import Arrivals, Herd, arrivals, in_order, recovery
from klais.sim.ids import model_ids
from klais.sim.sender import SLICE_FRAMES, Sender
from klais.sim.stream import _model
from klais.telemetry.view import dropped_by_reason

SLEEP_S = 0.001
SETTLE_S = 3.0  # the run ends when no record has landed for this time
POLL_RECORDS = 2000  # records of one poll; they share one time


@dataclass(slots=True)
class Landed:
    """Records read: (ns since the epoch, values) of each poll."""

    polls: list[tuple[int, list[bytes]]] = field(default_factory=list)
    count: int = 0
    at_s: float = 0.0


class Reader(threading.Thread):
    """Records the landing time of each record. It parses the records only afterwards, so that reading costs little
    during the run."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="herd-reader", daemon=True)
        config = confluent_config(settings) | {
            "group.id": f"klais-herd-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
        }
        self._consumer, self._ended = Consumer(config), threading.Event()
        topic = Topics.of(settings).telemetry
        self._consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in range(settings.partitions)])
        self.landed = Landed()

    def run(self) -> None:
        """Read until stopped."""
        landed = self.landed
        while not self._ended.is_set():
            first = self._consumer.poll(0.05)
            if first is None:
                continue
            messages = [first, *self._consumer.consume(POLL_RECORDS, timeout=0)]
            values = [m.value() for m in messages if m.error() is None]
            landed.polls.append((time.time_ns(), values))
            landed.count += len(values)
            landed.at_s = time.monotonic()
        self._consumer.close()

    def stop(self) -> Landed:
        """Stop and return the records."""
        self._ended.set()
        self.join(10)
        return self.landed


class Watch(threading.Thread):
    """Follows ``klais_stats``: highest queue, rates in force, and the counters of edge and workers at start and end."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="herd-watch", daemon=True)
        self._stats, self._ended = StatsFollower(settings), threading.Event()
        self.queue_depth, self.rates = 0, (math.inf, 0.0)
        self.begin: dict[str, float] = {}

    def open(self, timeout_s: float = 10.0, stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until an edge and a worker report.

        Raises
        ------
        KafkaUnavailable
            If none reports within ``timeout_s``, or before ``stop``.
        """
        self._stats.start()
        until_s = time.monotonic() + timeout_s
        while not (self._stats.newest("edge") and self._stats.newest("worker")):
            if time.monotonic() > until_s or stop():
                raise KafkaUnavailable(
                    "no edge and no worker report on klais_stats: start them, as with `klais up --no-simulate`"
                )
            time.sleep(0.1)
        self.begin = self.counters()
        self.start()

    def run(self) -> None:
        """Sample ten times a second."""
        while not self._ended.wait(0.1):
            system = self._stats.view()
            if system.workers:
                self.queue_depth = max(self.queue_depth, int(system.gauge("queue_depth")))
                rate = system.highest("rate_limit")
                self.rates = (min(self.rates[0], rate), max(self.rates[1], rate))

    def counters(self) -> dict[str, float]:
        """Present sums, with drops as ``dropped/<reason>``."""
        system = self._stats.view()
        out: dict[str, float] = {
            "edge/received": sum(edge.counters.get("received", 0.0) for edge in system.edges.values()),
            "worker/received": system.counter("received"),
            "worker/queued": system.counter("queued"),
        }
        everyone = [*system.edges.values(), *system.workers.values()]
        return out | {f"dropped/{reason}": frames for reason, frames in dropped_by_reason(everyone).items()}

    def stop(self) -> dict[str, int]:
        """Stop and return the growth since :meth:`open`."""
        end = self.counters()
        self._ended.set()
        self.join(2)
        self._stats.stop()
        return {name: int(value - self.begin.get(name, 0)) for name, value in end.items()}


def send(
    plan: Arrivals, host: str, port: int, prefix: str, seed: int, stop: Callable[[], bool]
) -> npt.NDArray[np.int64]:
    """Send all frames when they are due; return the send time of each (ns since the epoch), int64 [n]."""
    devices = int(plan.device.max()) + 1
    ids, model, rng = model_ids(prefix, devices), _model(devices, seed), np.array([seed], np.uint64)
    out = np.zeros(SLICE_FRAMES * kernels.MAX_BUILT_BYTES, np.uint8)
    none, no_text, kind = np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(SLICE_FRAMES, np.uint8)
    starts, lengths = np.zeros(SLICE_FRAMES, np.int64), np.zeros(SLICE_FRAMES, np.int64)
    sent_ns, total = np.zeros(len(plan.due_s), np.int64), len(plan.due_s)
    at, began_s = 0, time.perf_counter()
    with closing(Sender(host, port, stop=stop)) as sender:
        while at < total and not stop():
            due = int(np.searchsorted(plan.due_s, time.perf_counter() - began_s, side="right"))
            n = min(due - at, SLICE_FRAMES)
            if n <= 0:
                time.sleep(SLEEP_S)
                continue
            piece = slice(at, at + n)
            kernels.build(
                out, ids, plan.device[piece], plan.sequence[piece], kind[:n], model, 0.0, 0.0, no_text, none, none,
                none, rng, 0, starts[:n], lengths[:n],
            )  # fmt: skip
            sent_ns[piece] = time.time_ns()
            sender.send(out, starts[:n], lengths[:n])
            at += n - len(sender.unsent)
    return sent_ns[:at]


def run(
    settings: Settings,
    herd: Herd,
    host: str,
    port: int,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Send a herd and check the destinations of its frames; return the verdict table as a dict.

    ``stop`` ends the sending; ``report`` gets a line at the beginning of each phase.

    Raises
    ------
    klais.errors.KlaisError
        If the herd is not valid, no system is running, or ``stop`` came before the first frame.
    """
    plan = arrivals(herd)
    prefix = f"h{uuid.uuid4().hex[:5]}-"
    watch = Watch(settings)
    watch.open(stop=stop)
    reader = Reader(settings)
    reader.start()
    time.sleep(1.0)  # until the consumer has its offsets
    report(f"sends {len(plan.due_s):,} frames for {plan.due_s[-1]:.0f} s; the herd returns after {plan.storm_s:g} s")
    sent_ns = send(plan, host, port, prefix, herd.seed, stop)
    if not len(sent_ns):
        reader.stop()
        watch.stop()
        raise KlaisError("stopped before the first frame was sent")
    report(f"waits until no record has landed for {SETTLE_S:g} s")
    until_s = time.monotonic() + 120.0
    settle_s = time.monotonic() + SETTLE_S
    while reader.landed.count < len(sent_ns) and time.monotonic() < until_s:
        if time.monotonic() > max(settle_s, reader.landed.at_s + SETTLE_S):
            break
        time.sleep(0.1)
    time.sleep(1.5)  # until each process has sent one more record
    landed, counted = reader.stop(), watch.stop()
    return _verdict(herd, plan, sent_ns, landed, counted, watch, prefix)


def _verdict(
    herd: Herd, plan: Arrivals, sent_ns: npt.NDArray[np.int64], landed: Landed, counted: dict[str, int], watch: Watch,
    prefix: str,
) -> dict[str, Any]:  # fmt: skip
    n = len(sent_ns)
    device, sequence, at_ns = parse(landed, prefix)
    key = plan.device[:n].astype(np.int64) << 32 | plan.sequence[:n].astype(np.int64)
    order = np.argsort(key)
    found = device << 32 | sequence
    place = np.minimum(np.searchsorted(key[order], found), max(0, n - 1))
    ours = key[order][place] == found
    left_ns = sent_ns[order][place][ours]
    t0_ns = int(sent_ns[0]) - int(plan.due_s[0] * 1e9)
    # the sender may be late: the storm ends with its last sent frame
    storm_ns = sent_ns[plan.device[:n] < plan.herd]
    end_s = (int(storm_ns.max()) - t0_ns) / 1e9 if len(storm_ns) else plan.storm_s
    figures = recovery((at_ns[ours] - t0_ns) / 1e9, (at_ns[ours] - left_ns) / 1e9, plan.storm_s, end_s)
    why = "dropped/"
    dropped = {name.removeprefix(why): count for name, count in counted.items() if name.startswith(why) and count}
    passed = len(np.unique(found[ours]))
    return {
        "devices": herd.devices,
        "model": herd.model,
        "back_off": herd.back_off,
        "offered": n,
        "storm_frames": int((plan.device[:n] < plan.herd).sum()),
        "storm_seconds": round(end_s - plan.storm_s, 2),
        "passed": passed,
        "queued": counted.get("worker/queued", 0),
        "queue_depth_max": watch.queue_depth,
        "dropped": sum(dropped.values()),
        "dropped_by_reason": dropped,
        "lost": n - passed - sum(dropped.values()),
        "doubled": int(ours.sum()) - passed,
        "order_kept": in_order(device[ours], sequence[ours]),
        "rate_min": watch.rates[0] if math.isfinite(watch.rates[0]) else None,
        "rate_max": watch.rates[1],
        **{name: None if value is None else round(value, 3) for name, value in figures.items()},
    }


def parse(landed: Landed, prefix: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Device number, sequence and landing time (ns) of each record, int64 [n] each; both numbers are -1 for records of
    devices without this ``prefix``."""
    devices, sequences, at = [], [], []
    ours = re.compile(rb'\{"device_id":"%s([0-9]{1,9})","seq":([0-9]{1,10}),' % re.escape(prefix.encode()))
    for now_ns, values in landed.polls:
        for value in values:
            found = ours.match(value or b"")
            devices.append(int(found[1]) if found else -1)
            sequences.append(int(found[2]) if found else -1)
        at += [now_ns] * len(values)
    return np.array(devices, np.int64), np.array(sequences, np.int64), np.array(at, np.int64)
