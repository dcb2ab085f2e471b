"""Three Apache Kafka nodes (KRaft, broker and controller each) on loopback, which a test can kill, freeze and start."""

import base64
import contextlib
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from klais.broker import jars
from klais.broker.config import BrokerFiles, jvm_flags, server_properties
from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from klais.system.child import OwnedChild
from klais.system.private_files import write_own
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import wait_for

NODES = 3
_REPLICATED: dict[str, Any] = {
    "default.replication.factor": NODES,
    "min.insync.replicas": 2,
    "offsets.topic.replication.factor": NODES,
    "transaction.state.log.replication.factor": NODES,
    "transaction.state.log.min.isr": 2,
    "share.coordinator.state.topic.replication.factor": NODES,
    "share.coordinator.state.topic.min.isr": 2,
    "num.io.threads": 2,
    # The cluster detects a dead node within seconds: its leaders must move before writes continue.
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "replica.lag.time.max.ms": 4000,
}


class Node:
    """One node with its own folder."""

    def __init__(self, folder: Path, number: int, port: int, controllers: list[int], cluster_id: str) -> None:
        settings = Settings(state_dir=folder, kafka_port=port, kafka_heap_mb=192)
        self._files = BrokerFiles(settings)
        self._files.make()
        voters = ",".join(f"{n + 1}@127.0.0.1:{controller}" for n, controller in enumerate(controllers))
        own = {**_REPLICATED, "node.id": number + 1, "controller.quorum.voters": voters}
        kept = server_properties(settings, self._files, controllers[number]).splitlines()
        lines = [line for line in kept if line.partition("=")[0] not in own]
        text = "\n".join([*lines, *(f"{name}={value}" for name, value in own.items())]) + "\n"
        write_own(self._files.properties, text.encode())
        folder_of_jars = jars.fetch(settings.cache_dir, lambda text: None)
        self._base = [jars.find_java(), *jvm_flags(settings, self._files), "-cp", f"{folder_of_jars}/*"]
        tool = [*self._base, "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id]
        subprocess.run([*tool, "-c", str(self._files.properties)], check=True, capture_output=True)
        self.id = number + 1
        self.address = f"127.0.0.1:{port}"
        self._child: OwnedChild | None = None

    def start(self) -> None:
        """Start with the data in its folder; does not wait until it serves."""
        self._child = OwnedChild([*self._base, "kafka.Kafka", str(self._files.properties)], self._files.jvm_log)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._child is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self._child.pid).send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self.send(signal.SIGKILL)
        assert self._child is not None
        self._child.wait()

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open, the node does not answer."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self.send(signal.SIGCONT)


class Cluster:
    """All nodes; ``settings`` name them, with three replicas of every topic."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        ports, controllers = ([free_port() for _ in range(NODES)] for _ in range(2))
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        self.nodes = [Node(folder / f"node-{n}", n, ports[n], controllers, cluster_id) for n in range(NODES)]
        given = {"kafka_bootstrap": ",".join(node.address for node in self.nodes), "replication": NODES}
        self.settings = Settings(**given | {"state_dir": folder / "state", "partitions": 3} | overrides)
        for node in self.nodes:
            node.start()

    def wait_up(self) -> None:
        """Wait until all nodes know each other."""

        def up() -> bool:
            try:
                return len(self._metadata().brokers) == NODES
            except KafkaException:
                return False

        wait_for(up, 60, "every node", every_s=0.2)

    def wait_whole(self) -> None:
        """Wait until every replica of every partition is in sync."""
        everyone = set(range(1, NODES + 1))
        wait_for(lambda: self._in_sync() == everyone, 60, "every replica in sync", every_s=0.2)

    def wait_without(self, node: Node) -> None:
        """Wait until the others have detected a dead node: it is in no in-sync set and leads no partition."""

        def missed() -> bool:
            there = self._in_sync(least=1)
            return bool(there) and node.id not in there

        wait_for(missed, 60, "a node is missed", every_s=0.2)

    def _in_sync(self, least: int = NODES) -> set[int]:
        """Nodes in the in-sync set of any partition; empty if a partition has fewer than ``least``."""
        try:
            seen = self._metadata()
        except KafkaException:
            return set()
        parts = [set(part.isrs) for topic in seen.topics.values() for part in topic.partitions.values()]
        return set().union(*parts) if all(len(part) >= least for part in parts) else set()

    def _metadata(self) -> Any:
        return AdminClient({"bootstrap.servers": self.settings.bootstrap, "log_level": 0}).list_topics(timeout=5)

    def end(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            node.thaw()
            node.kill()


@contextmanager
def cluster(**overrides: Any) -> Iterator[Cluster]:
    """A cluster with the topics of its settings, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="klais-cluster-"))
    it = None
    try:
        try:
            it = Cluster(folder, **overrides)
        except SetupMissing as error:
            need_missing("broker", str(error))
            raise
        it.wait_up()
        ensure_topics(it.settings)
        it.wait_whole()
        yield it
    finally:
        if it is not None:
            it.end()
        shutil.rmtree(folder, ignore_errors=True)
