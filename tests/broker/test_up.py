"""`klais up` as a whole: its own Kafka, edge, worker and simulator; what it leaves behind when it
ends, or is killed.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from klais.broker import jars
from klais.config.load import Settings
from klais.errors import PortInUse, SetupMissing
from klais.system.ports import check_port
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import PATIENCE, clean_environ, exit_code, has_ended, wait_for

REPO = Path(__file__).parents[2]


class Place:
    """A state folder and free ports for one system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tcp = {name: free_port() for name in ("KAFKA_PORT", "WEB_PORT", "API")}
        self.udp = free_port(kind="udp")
        self.env = clean_environ() | {
            "KLAIS_STATE_DIR": str(folder / "state"),
            "KLAIS_KAFKA_PORT": str(self.tcp["KAFKA_PORT"]),
            "KLAIS_WEB_PORT": str(self.tcp["WEB_PORT"]),
            "KLAIS_API_BIND": f"127.0.0.1:{self.tcp['API']}",
            "KLAIS_UDP_BIND": f"127.0.0.1:{self.udp}",
        }
        self.out = folder / "up.txt"

    def klais(self, *words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "klais", *words]
        return subprocess.run(
            command, cwd=REPO, env=self.env, capture_output=True, text=True, timeout=timeout_s * PATIENCE
        )

    def up(self, *words: str) -> subprocess.Popen[bytes]:
        with self.out.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "klais", "up", *words], cwd=REPO, env=self.env, stdout=out, stderr=out
            )

    def text(self) -> str:
        return self.out.read_text()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Objects of one kind that `klais up --json` has written."""
        rows = [json.loads(line) for line in self.text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [row for row in rows if row["event"] == event]

    def nothing_left(self) -> None:
        """Every port can be bound again (after a kill the kernel closes connections a moment later)."""
        wait_for(lambda: not self.taken(), 30, self.taken)

    def taken(self) -> str:
        try:
            for name, port in self.tcp.items():
                check_port("127.0.0.1", port, setting=name)
            check_port("127.0.0.1", self.udp, "udp", "UDP")
        except PortInUse as error:
            return str(error)
        return ""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    try:
        jars.find_java()
        jars.fetch(Settings().cache_dir, lambda text: None)
    except SetupMissing as error:
        need_missing("broker", str(error))
    yield Place(tmp_path)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return list(psutil.Process(process.pid).children(recursive=True))


def gone(children: list[psutil.Process]) -> bool:
    return all(has_ended(child) for child in children)


def running(children: list[psutil.Process]) -> str:
    """Command lines of those that still run."""
    found = []
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(" ".join(child.cmdline()))
    return "\n".join(found)


def test_ports_that_are_taken_are_all_told_before_anything_is_started(place: Place) -> None:
    with socket.socket() as web, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        web.bind(("127.0.0.1", place.tcp["WEB_PORT"]))
        web.listen()
        udp.bind(("127.0.0.1", place.udp))
        ran = place.klais("up", "--for", "1s", timeout_s=20)
    assert ran.returncode == 1, ran.stdout
    holder = f"(pid {os.getpid()})"
    for port, setting in ((place.tcp["WEB_PORT"], "KLAIS_WEB_PORT"), (place.udp, "KLAIS_UDP_BIND")):
        (line,) = [line for line in ran.stderr.splitlines() if f"port {port} " in line]
        assert setting in line and holder in line
    assert not (place.folder / "state" / "kafka").exists()


def sent_in(place: Place, seconds: int) -> int:
    """Run for so long; how many frames were sent, all of which must have landed, and nothing is left behind."""
    process = place.up("--for", f"{seconds}s", "--plain", "--rate", "400", "--devices", "100")
    try:
        wait_for(lambda: "\nready\n" in place.text() or process.poll() is not None, 90, place.text)
        children = family(process)
        assert exit_code(process, 60 + seconds, place.text) == 0, place.text()
    finally:
        process.kill()
    text = place.text()
    assert len(children) >= 4, "Kafka, worker, edge, simulator"
    assert any("landed" in line and "lag" in line for line in text.splitlines()), text
    assert "they add up: every frame is accounted for" in text
    rows = dict(line.rsplit(maxsplit=1) for line in text.splitlines() if line.startswith("  ") and line[-1].isdigit())
    counts = {name.strip(): int(count.replace(",", "")) for name, count in rows.items()}
    assert counts["sent"] == counts["landed"] == counts["received by the edge"]
    assert gone(children), running(children)
    place.nothing_left()
    return counts["sent"]


def test_a_run_adds_up_and_leaves_nothing_behind(place: Place) -> None:
    # On a busy machine the run may be over before the simulator has begun: then a longer one tells.
    assert any(sent_in(place, seconds) > 1000 for seconds in (5, 30, 180))


def test_the_example_lands_and_kill_9_leaves_no_orphan(place: Place) -> None:
    process = place.up("--no-simulate", "--json", "--partitions", "2")
    children: list[psutil.Process] = []
    try:
        wait_for(lambda: place.lines("ready") or process.poll() is not None, 90, place.text)
        assert process.poll() is None, place.text()
        children = family(process)
        example = [sys.executable, str(REPO / "examples" / "send_frame.py"), "127.0.0.1", str(place.udp)]
        subprocess.run(example, check=True, capture_output=True, timeout=10 * PATIENCE)

        def landed() -> list[dict[str, Any]]:
            snapshot = place.lines("snapshot")
            if not snapshot or snapshot[-1]["totals"]["landed"] < 3:
                return []
            shown = place.klais("tail", "iot_telemetry", "--device", "sensor-42", "--json")
            return [json.loads(line)["value"] for line in shown.stdout.splitlines()]

        records = wait_for(landed, 60, place.text)
        first = records[0]["seq"]
        assert [(r["device_id"], r["seq"] - first, r["data"]["temperature"]) for r in records] == [
            ("sensor-42", 0, 21.5),
            ("sensor-42", 1, 22.5),
            ("sensor-42", 2, 23.5),
        ]
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: gone(children), 60, lambda: running(children))
        place.nothing_left()
    finally:
        process.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
