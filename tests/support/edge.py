"""Tools of the edge's broker tests: an edge process, senders, and the records of a topic."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from klais.config.load import Settings, environ_of
from tests.support.ports import free_port
from tests.support.process import HTTP_S, PATIENCE, clean_environ, exit_code, kill_hard, wait_for
from tests.support.udp import send_all


def edge_command(settings: Settings, log: Path) -> tuple[list[str], Path, dict[str, str]]:
    """Command, log and environment of an edge on the addresses in the settings."""
    env = clean_environ() | environ_of(settings) | {"KLAIS_LOG_FORMAT": "json"}
    return [sys.executable, "-m", "klais", "edge"], log, env


class EdgeProcess:
    """One ``klais edge`` on separate ports; its log goes to ``log``."""

    def __init__(
        self,
        settings: Settings,
        log: Path,
        host: str = "127.0.0.1",
        port: int | None = None,
        *options: str,
        **env_more: str,
    ) -> None:
        self.host = host
        self.udp_port, self.api_port = port or free_port(host, "udp"), free_port()
        where = f"[{host}]" if ":" in host else host
        own = {"KLAIS_UDP_BIND": f"{where}:{self.udp_port}", "KLAIS_API_BIND": f"127.0.0.1:{self.api_port}"}
        env = clean_environ() | environ_of(settings) | own | {"KLAIS_LOG_FORMAT": "json"} | env_more
        self.log = log
        with open(log, "ab") as out:
            command = [sys.executable, "-m", "klais", "edge", *options]
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=out)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body of a GET; (0, None) while the edge does not answer."""
        return self.request(urllib.request.Request(f"http://127.0.0.1:{self.api_port}{path}"))

    def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
        """Status and body of a POST."""
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} | headers
        return self.request(
            urllib.request.Request(f"http://127.0.0.1:{self.api_port}{path}", data, headers, method="POST")
        )

    def request(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=HTTP_S) as answer:
                body = answer.read()
                is_json = answer.headers.get_content_subtype() == "json"
                return answer.status, json.loads(body) if is_json else body.decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, None

    def wait_status(self, wanted: int, timeout_s: float = 60) -> Any:
        """Body of ``/health`` once it answers with that status."""

        def answered() -> Any:
            assert self.process.poll() is None, self.tail()
            status, body = self.get("/health")
            return body if status == wanted else None

        return wait_for(answered, timeout_s, f"/health {wanted}")

    def counters(self) -> dict[str, Any]:
        """The edge's own counters and gauges in one mapping."""
        edge = self.get("/stats")[1]["edge"]
        return edge["counters"] | edge["gauges"]

    def send(self, frames: list[bytes], paced: bool = True) -> None:
        """Send datagrams; ``paced`` limits bursts to the size of a small receive buffer."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((self.host, self.udp_port))
            if paced:
                send_all(sock, frames, self.udp_port)
            else:
                for frame in frames:
                    sock.send(frame)

    def wait_settled(self, received: int, timeout_s: float = 30) -> dict[str, Any]:
        """Counters once that many frames were received and none is waiting or in flight."""

        def settled() -> Any:
            now = self.counters()
            return now if now["received"] >= received and now["queue_depth"] == now["inflight_bytes"] == 0 else None

        return wait_for(settled, timeout_s, f"{received} frames received and settled")

    def stop(self, timeout_s: float = 30) -> tuple[int, dict[str, Any]]:
        """Send SIGTERM; return the exit code and the counters that the edge logged at the end."""
        self.process.send_signal(signal.SIGTERM)
        code = exit_code(self.process, timeout_s, lambda: f"the edge to end on SIGTERM; its log ends:\n{self.tail()}")
        last = [row for row in self.rows() if row.get("event") == "edge_stopped"]
        return code, last[-1] if last else {}

    def rows(self) -> list[dict[str, Any]]:
        """Parsed log lines."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def tail(self) -> str:
        """End of the log, for messages."""
        return self.log.read_text()[-3000:]


@contextmanager
def edge_process(settings: Settings, log: Path, host: str = "127.0.0.1") -> Iterator[EdgeProcess]:
    """An edge that ends with the block."""
    it = EdgeProcess(settings, log, host)
    try:
        yield it
    finally:
        kill_hard(it.process)


def read_all(bootstrap: str, topic: str, partitions: int) -> list[Message]:
    """All records of a topic up to its end at this moment, by partition and offset."""
    own = {"group.id": "read-all", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer({"bootstrap.servers": bootstrap, **own})
    try:
        consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        out: list[Message] = []
        left = set(range(partitions))  # offsets do not count records: fences leave control records
        deadline = time.monotonic() + 60 * PATIENCE
        while left:
            assert time.monotonic() < deadline, f"partitions {left} of {topic} were not read to their end"
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    out.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
        return sorted(out, key=lambda m: (m.partition(), m.offset()))
    finally:
        consumer.close()


def balanced(counters: dict[str, Any], waiting: int = 0) -> bool:
    """Whether every frame is in exactly one place (``waiting``: queue depth, or frames in the spool)."""
    came = counters["received"] + counters.get("spool_recovered", 0)
    return came == counters["passed"] + sum(counters["dropped"].values()) + waiting
