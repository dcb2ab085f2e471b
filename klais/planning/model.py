"""Sizes of a system from devices, rate, latency and retention: each line with its formula and the source of its costs.

frames/s, devices ──> batches/s ──> cores of edges, workers, brokers ──> processes, memory, disk, network ──> limits
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from klais.config.fields import FIELDS
from klais.config.settings import linger_of
from klais.core.wire.constants import HEADER_SIZE
from klais.planning.costs import Cost

PACKET_BYTES = 42  # Ethernet, IPv4 and UDP headers of a datagram
RECORD_BYTES = 28  # per clean record: key 16, lengths, time and offset as varints
JOURNAL_BYTES = 2  # per frame: its verdict, and a share of the step's header
BUSY = 0.6  # share of a core that a process may use: the rest is for bursts and for the work of a failed one
RATE_GROWTH = 2.0  # partitions cannot be changed later
LANES_A_WORKER = 4  # so that the lanes of a failed worker spread over the others
MIN_PARTITIONS, MAX_PARTITIONS = 4, 1024
MAX_LANES = 64  # of one worker, before the journal's and the changelog's requests outweigh the frames
MANY_CORES, MIN_SHARE = 4, 0.2  # from this number of cores on, frames should take this share of the CPU time
MAX_EDGES = 4096  # edge numbers are 16 bits, and each edge process writes klais_stats once a second
BROKER_CORES = 4  # assumed cores of one broker
BITS = 8
CHECKPOINT_S: float = FIELDS["checkpoint_interval_s"].default
MAX_CHANGELOG = 50e6  # bytes/s that a broker's disk and replication carry beside everything else
MAX_DEVICE_RATE = 100_000.0  # frames/s of one device, in one lane: what a lane surely decides (docs/scaling.md)


@dataclass(frozen=True, slots=True)
class Question:
    """Requirements of the system.

    Parameters
    ----------
    devices : int
    rate : float
        Frames/s of all devices together.
    payload_bytes : int
        Mean length of a payload.
    latency_s, retention_s : float
        Target from arrival to readable; retention of clean and raw records.
    replication : int
        Copies of each record on the cluster.
    compression : float
        Size of lz4 batches divided by their plain size.
    outage_s : float
        Longest outage of Kafka, during which edges spool.
    partitions : int
        Those of an existing system, which cannot be changed; 0 = compute.
    """

    devices: int
    rate: float
    payload_bytes: int = 60
    latency_s: float = 0.1
    retention_s: float = 7 * 86_400.0
    replication: int = 3
    compression: float = 0.6
    outage_s: float = 3600.0
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of the plan: its ``part``, ``name``, ``value`` and ``unit``, its formula, and its sources."""

    part: str
    name: str
    value: float
    unit: str
    formula: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The lines in the order of computation, and warnings about known limits."""

    lines: tuple[Line, ...]
    warnings: tuple[str, ...]

    def value(self, part: str, name: str) -> float:
        """The value of one line."""
        return next(line.value for line in self.lines if (line.part, line.name) == (part, name))


def power_of_two(value: float) -> int:
    """The smallest power of two that is not below ``value``.

    Examples
    --------
    >>> power_of_two(1), power_of_two(5), power_of_two(64)
    (1, 8, 64)
    """
    return 1 << max(0, math.ceil(math.log2(max(value, 1.0))))


def batches_per_s(rate: float, partitions: int, edges: int, linger_s: float) -> float:
    """Batches/s that edges publish: each partition's batch closes once per linger, if it has a frame.

    Frames arrive independently, so a linger with ``n`` frames on average is empty with probability ``exp(-n)``
    (Poisson).
    """
    slots = partitions * edges / linger_s
    return slots * -math.expm1(-rate / slots) if rate > 0 else 0.0


def _partitions(value: float) -> int:
    return min(MAX_PARTITIONS, max(MIN_PARTITIONS, power_of_two(value)))


def _processes(work: float, idle: float, cores: int = 1) -> int:
    """Number of processes that share ``work`` (cores), each with ``idle`` additional cores."""
    return max(1, math.ceil(work / (cores * BUSY - idle)))


def plan(question: Question, costs: Mapping[str, Cost]) -> Plan:
    """Size a system.

    Parameters
    ----------
    question : Question
        The requirements.
    costs : mapping of str to Cost
        See :func:`klais.planning.costs.costs`.
    """
    q, c = question, {name: cost.value for name, cost in costs.items()}
    linger_s = 1e-3 * linger_of(1e3 * q.latency_s)
    edges = _processes(1e-6 * q.rate * c["edge_us"], c["edge_idle"])
    workers = _processes(1e-6 * q.rate * c["worker_us"], c["worker_idle"])
    partitions = q.partitions or _partitions(workers * LANES_A_WORKER * RATE_GROWTH)
    while True:  # batches need workers; if these outnumber the lanes, more partitions cause more batches
        batches = batches_per_s(q.rate, partitions, edges, linger_s)
        work = 1e-6 * (q.rate * c["worker_us"] + batches * c["worker_batch_us"])
        workers = _processes(work, c["worker_idle"])
        if workers <= partitions or q.partitions or partitions == MAX_PARTITIONS:
            break
        partitions = _partitions(workers)
    worker_cores = work + workers * c["worker_idle"]
    work = 1e-6 * (q.rate * c["edge_us"] + batches * c["edge_batch_us"])
    edges = max(edges, _processes(work, c["edge_idle"]))
    edge_cores = work + edges * c["edge_idle"]
    work = 1e-6 * q.replication * (q.rate * c["broker_us"] + batches * c["broker_batch_us"])
    brokers = max(q.replication, _processes(work, c["broker_idle"], BROKER_CORES))
    broker_cores = work + brokers * c["broker_idle"]
    lines = [
        Line("Kafka", "partitions", partitions, "", f"workers for the frames x {LANES_A_WORKER} lanes x "
             f"{RATE_GROWTH:g}, a power of two", "it cannot be changed later, so twice the present need"),
        Line("edges", "batches", batches, "batches/s", f"partitions x edges per {linger_s * 1e3:g} ms with a frame",
             "linger of KLAIS_LATENCY_MS; frames arrive as a Poisson process"),
        Line("edges", "cores", edge_cores, "cores", "rate x edge_us + batches x edge_batch_us + idle",
             _from(costs, "edge_us", "edge_batch_us", "edge_idle")),
        Line("edges", "processes", edges, "", f"cores / {BUSY:g}", "at most 60 % busy"),
        Line("workers", "cores", worker_cores, "cores", "rate x worker_us + batches x worker_batch_us + idle",
             _from(costs, "worker_us", "worker_batch_us", "worker_idle")),
        Line("workers", "processes", workers, "", f"cores / {BUSY:g}, one core each", "at most 60 % busy"),
        Line("Kafka", "cores", broker_cores, "cores",
             "replication x (rate x broker_us + batches x broker_batch_us) + idle",
             _from(costs, "broker_us", "broker_batch_us", "broker_idle")),
        Line("Kafka", "brokers", brokers, "", f"cores / ({BROKER_CORES} cores x {BUSY:g}), at least replication", ""),
    ]  # fmt: skip
    lines += _memory(q, c, costs, edges, workers) + _bytes(q, brokers, edges) + _changelog(q, c)
    return Plan(tuple(lines), tuple(_warnings(q, c, lines, workers, edges, partitions)))


def _from(costs: Mapping[str, Cost], *names: str) -> str:
    return "; ".join(f"{name} {costs[name].value:g} ({costs[name].source})" for name in names)


def _memory(q: Question, c: Mapping[str, float], costs: Mapping[str, Cost], edges: int, workers: int) -> list[Line]:
    left = max(1, workers - 1)
    each = c["worker_base_mb"] + q.devices * c["device_bytes"] / left / 1e6
    spool = q.rate * q.outage_s * (HEADER_SIZE + q.payload_bytes + 6) / edges / 1e9
    return [
        Line("workers", "memory each", each, "MB", f"base + devices x device_bytes / {left} workers (one is down)",
             _from(costs, "worker_base_mb", "device_bytes")),
        Line("edges", "memory each", c["edge_base_mb"], "MB", "base; plus batches in flight, at most 64 MB",
             _from(costs, "edge_base_mb")),
        Line("edges", "spool disk each", spool, "GB", f"rate x {q.outage_s:g} s x (frame + 6 bytes) / edges",
             "klais_edge_spool_bytes in bench outage"),
    ]  # fmt: skip


def _bytes(q: Question, brokers: int, edges: int) -> list[Line]:
    raw = q.rate * (HEADER_SIZE + q.payload_bytes + 12) * q.compression
    clean = q.rate * (RECORD_BYTES + q.payload_bytes) * q.compression
    journal = q.rate * JOURNAL_BYTES
    written = raw + clean + journal
    disk = written * q.retention_s * q.replication
    wire = q.rate * (PACKET_BYTES + HEADER_SIZE + q.payload_bytes) * BITS / 1e6
    network = (written * (1 + q.replication) + raw) * BITS / 1e6 / brokers
    return [
        Line("Kafka", "written", written / 1e6, "MB/s", f"raw {raw / 1e6:.3g} + clean {clean / 1e6:.3g} + journal "
             f"{journal / 1e6:.3g}", f"lz4 to {q.compression:g} of the plain size (--compression)"),
        Line("Kafka", "disk", disk / 1e9, "GB", f"written x retention {q.retention_s / 86_400:g} d x {q.replication} "
             "copies", "retention.ms of klais_raw, klais_journal and iot_telemetry"),
        Line("Kafka", "disk of one broker", disk / 1e9 / brokers, "GB", "disk / brokers", ""),
        Line("Kafka", "network of one broker", network, "Mbit/s", "(written x (1 + replication) + raw read) / brokers",
             "plus consumers of iot_telemetry"),
        Line("edges", "network each", wire / edges, "Mbit/s",
             f"rate x ({PACKET_BYTES + HEADER_SIZE} + payload) / edges",
             "Ethernet, IPv4 and UDP headers"),
    ]  # fmt: skip


def _changelog(q: Question, c: Mapping[str, float]) -> list[Line]:
    changed = q.devices * -math.expm1(-q.rate * CHECKPOINT_S / q.devices) if q.devices else 0.0
    return [
        Line("Kafka", "changelog", changed * c["row_bytes"] / CHECKPOINT_S / 1e6, "MB/s",
             f"devices with a frame in {CHECKPOINT_S:g} s x row_bytes / {CHECKPOINT_S:g} s",
             "KLAIS_CHECKPOINT_INTERVAL_S"),
    ]  # fmt: skip


def _warnings(
    q: Question, c: Mapping[str, float], lines: list[Line], workers: int, edges: int, partitions: int
) -> list[str]:
    value = {(line.part, line.name): line.value for line in lines}
    out = []
    if partitions == MAX_PARTITIONS:
        out.append(
            f"{MAX_PARTITIONS} partitions are the maximum: run several systems under their own KLAIS_TOPIC_PREFIX"
        )
    if workers > partitions:
        out.append(f"{workers} workers, but only {partitions} lanes to share: more partitions, or more latency")
    cores = value["edges", "cores"] + value["workers", "cores"] + value["Kafka", "cores"]
    frames = q.rate * 1e-6 * (c["edge_us"] + c["worker_us"] + q.replication * c["broker_us"])
    if cores > MANY_CORES and frames < MIN_SHARE * cores:
        each = q.rate / value["edges", "batches"]
        out.append(f"batches of {each:.0f} frames take {1 - frames / cores:.0%} of all CPU time: allow more latency")
    if partitions / workers > MAX_LANES:
        out.append(f"{partitions / workers:.0f} lanes per worker: each writes its own journal and checkpoints")
    if edges > MAX_EDGES:
        out.append(f"{edges} edge processes: klais_stats and the page are tested up to {MAX_EDGES}")
    if q.devices and q.rate / q.devices > MAX_DEVICE_RATE:
        out.append(
            f"one device sends {q.rate / q.devices:,.0f} frames/s, and one lane decides all of them: from "
            f"{MAX_DEVICE_RATE:,.0f} on that may be more than a lane can process"
        )
    if value["Kafka", "changelog"] * 1e6 > MAX_CHANGELOG:
        out.append("the changelog writes more than 50 MB/s: raise KLAIS_CHECKPOINT_INTERVAL_S")
    if value["workers", "memory each"] > 8000:
        out.append("a worker needs more than 8 GB: its successor reads all its rows first; run more workers")
    if value["edges", "network each"] > 8000 or value["Kafka", "network of one broker"] > 8000:
        out.append("a process needs more than 8 Gbit/s: use a faster network card, or more hosts")
    moved_s = math.ceil(partitions / max(1, workers - 1)) * c["lane_ms"] / 1e3
    if moved_s > 10:
        out.append(f"a failover takes about {moved_s:.0f} s plus the session timeout: more workers make it shorter")
    return out
