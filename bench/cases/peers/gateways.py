"""How each gateway is started: one UDP port in, one topic out, acks=all, lz4, the linger of the peer, one core."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from bench.cases.baseline import create_topic
from bench.cases.peers.catalog import LINGER_MS, Peer, folder
from bench.harness import Bench, BenchFailed, Child, Ends, wait_for
from bench.harness.observe import healthy
from klais.config.load import Settings
from klais.core.wire.batch import HEADER
from klais.kafka.clients import confluent_config
from klais.kafka.offsets import end_offsets
from klais.kafka.topics import Topics
from klais.system.address import split_address

COUNT_S = 60.0
RECEIVE_BUFFER_BYTES = 64 << 20
_RSYSLOG = """
global(net.enableDNS="off" workDirectory="{folder}")
module(load="imudp" threads="1" batchSize="1024")
module(load="omkafka")
template(name="message" type="string" string="%rawmsg-after-pri%")
input(type="imudp" address="{host}" port="{port}" rcvbufSize="{buffer}" ruleset="all")
ruleset(name="all" queue.type="FixedArray" queue.size="200000" queue.dequeueBatchSize="1024" queue.workerThreads="1") {{
  action(type="omkafka" broker=["{bootstrap}"] topic="{topic}" template="message" partitions.auto="on"
         confParam=["request.required.acks=-1", "compression.codec=lz4"{linger}])
}}
"""
_SYSLOG_NG = """
@version: 3.38
options {{ threaded(yes); use-dns(no); keep-hostname(no); stats-freq(0); }};
source in {{ network(transport("udp") ip("{host}") port({port}) so-rcvbuf({buffer}) flags(no-hostname)
  log-fetch-limit(1000) log-iw-size(100000)); }};
destination out {{ kafka-c(bootstrap-servers("{bootstrap}") topic("{topic}") message("$RAWMSG$MSGHDR$MSG")
  workers(1) log-fifo-size(200000) config(acks("all") compression.codec("lz4") queue.buffering.max.ms("{linger}"))); }};
log {{ source(in); destination(out); flags(flow-control); }};
"""
_TENZIR = """
accept_udp "{host}:{port}", binary=true
to_kafka "{topic}", message=data, options={{"bootstrap.servers": "{bootstrap}", "acks": "all",
  "compression.codec": "lz4", "linger.ms": "{linger}"}}
"""


class BatchFrames:
    """Frames in ``klais_raw``: each batch's header says how many it holds; one that came twice counts once."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._topic = settings, Topics.of(settings).raw
        self._batches: dict[tuple[int, int, int, int], int] = {}
        self._at = dict.fromkeys(range(settings.partitions), 0)

    def total(self) -> int:
        """Read what is new, and give the sum."""
        ends = end_offsets(self._settings, self._topic)
        behind = {partition for partition, end in ends.items() if self._at[partition] < end}
        if behind:
            self._read(ends, behind)
        return sum(self._batches.values())

    def _read(self, ends: dict[int, int], behind: set[int]) -> None:
        consumer = Consumer(confluent_config(self._settings) | {"group.id": f"{self._topic}-count"})
        try:
            consumer.assign([TopicPartition(self._topic, partition, self._at[partition]) for partition in behind])
            until_s = time.monotonic() + COUNT_S
            while behind:
                for message in consumer.consume(1000, 0.2):
                    self._add(message)
                behind = {partition for partition in behind if self._at[partition] < ends[partition]}
                if time.monotonic() > until_s:
                    raise BenchFailed(f"{self._topic} could not be read to its end within {COUNT_S:g} s")
        finally:
            consumer.close()

    def _add(self, message: Any) -> None:
        if message.error() is None:
            _, count, _, edge, _, boot, number = HEADER.unpack_from(message.value())
            self._batches[message.partition(), edge, boot, number] = count
            self._at[message.partition()] = message.offset() + 1


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that receives; ``ends.total()`` is the number of frames in its topic."""

    peer: Peer
    settings: Settings
    ends: Ends | BatchFrames
    child: Child


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started meanwhile have this core only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def gateway(bench: Bench, peer: Peer, core: int) -> Iterator[Gateway]:
    """A gateway on one core, with a topic of its own that is gone afterwards."""
    with _topics(bench, peer) as settings:
        topic = f"{settings.topic_prefix}frames"
        with on_core(core):
            child = bench.child(f"peer-{peer.label}", command(bench, peer, settings, topic), settings, **_env(peer))
        try:
            receives = (lambda: healthy(child, settings)) if peer.name == "klais" else (lambda: _bound(child, settings))
            wait_for(receives, 60, f"{peer.title} receives; its log ends:\n{child.tail()}", 0.1)
            yield Gateway(
                peer, settings, BatchFrames(settings) if peer.name == "klais" else Ends(settings, topic), child
            )
        finally:
            child.stop(10)


@contextmanager
def _topics(bench: Bench, peer: Peer) -> Iterator[Settings]:
    if peer.name == "klais":
        defaults = {"latency_ms": Settings.model_fields["latency_ms"].default} if peer.linger_ms is None else {}
        with bench.topics(**defaults) as settings:
            yield settings
        return
    settings = bench.settings()
    topic = create_topic(settings, "frames")
    try:
        yield settings
    finally:
        bench.delete([topic])


def command(bench: Bench, peer: Peer, settings: Settings, topic: str) -> Sequence[str]:
    """The command of a gateway; writes its configuration."""
    where, bind, bootstrap = folder(peer), settings.udp_bind, settings.bootstrap
    if peer.name == "klais":
        return [sys.executable, "-m", "klais", "edge"]
    if peer.name == "asyncio":
        return [sys.executable, "-m", "bench.cases.baseline.plain_edge", bind, bootstrap, topic]
    if peer.name == "uvloop":
        program = Path(__file__).parent / "programs" / "uvloop_gateway.py"
        return [str(where / peer.program), str(program), bind, bootstrap, topic]
    host, port = split_address(bind)
    made = Path(tempfile.mkdtemp(prefix=f"{peer.name}-", dir=bench.folder))
    text = {"rsyslog": _RSYSLOG, "syslog-ng": _SYSLOG_NG, "tenzir": _TENZIR}[peer.name].format(
        folder=made, host=host, port=port, bootstrap=bootstrap, topic=topic, buffer=RECEIVE_BUFFER_BYTES,
        linger=_linger(peer),
    )  # fmt: skip
    config = made / "peer.conf"
    config.write_text(text.lstrip())
    binary = str(where / peer.program)
    if peer.name == "tenzir":
        return [binary, "--bare-mode", "-f", str(config)]
    if peer.name == "rsyslog":
        modules = [str(path) for path in (where / "root").glob("usr/lib/*/rsyslog")]
        return [binary, "-n", "-f", str(config), "-i", str(made / "pid"), "-M", ":".join(modules)]
    modules = [str(path) for path in (where / "root").glob("usr/lib/syslog-ng/[0-9]*")]
    state = [f"--persist-file={made}/persist", f"--control={made}/control", f"--pidfile={made}/pid", "--no-caps"]
    return [binary, "-F", "-f", str(config), f"--module-path={':'.join(modules)}", *state]


def _linger(peer: Peer) -> str:
    """The linger in the peer's own configuration language; rsyslog's is optional."""
    if peer.name != "rsyslog":
        return f"{peer.linger_ms or LINGER_MS:g}"
    return "" if peer.linger_ms is None else f', "queue.buffering.max.ms={peer.linger_ms:g}"'


def _env(peer: Peer) -> dict[str, str]:
    """Libraries of a peer that lie below its folder."""
    if not peer.debian:
        return {}
    root = folder(peer) / "root"
    found = {str(path.parent) for path in root.glob("**/lib*.so.*")}
    return {"LD_LIBRARY_PATH": ":".join(sorted(found))}


def _bound(child: Child, settings: Settings) -> bool:
    """Whether somebody has bound the port of ``settings`` (it was free)."""
    child.check()
    wanted = f":{split_address(settings.udp_bind)[1]:04X}"
    return any(line.split()[1].endswith(wanted) for line in Path("/proc/net/udp").read_text().splitlines()[1:])
