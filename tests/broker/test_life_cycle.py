"""An edge under a service manager: readiness, watchdog, reload, the end."""

import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from klais.config.load import Settings
from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.edge import EdgeProcess
from tests.support.process import exit_code, kill_hard, wait_for


def test_a_service_manager_hears_of_start_life_reload_and_end(
    settings_for: Callable[..., Settings], topics_of: Callable[[Settings], Topics], tmp_path: Path
) -> None:
    settings = settings_for(partitions=1)
    topics_of(settings)
    file = tmp_path / "edge.env"
    file.write_text("KLAIS_LOG_LEVEL=warning\nKLAIS_BREAKER_TIMEOUT_S=5\n")
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.05)

        def hear(text: str) -> bool:
            with contextlib.suppress(TimeoutError):
                heard.append(manager.recv(4096).decode())
            return any(text in line for line in heard)

        env = {"KLAIS_ENV_FILE": str(file), "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        edge = EdgeProcess(settings, tmp_path / "edge.log", **env)
        try:
            wait_for(lambda: hear("FDSTORE=1"), 60, "the socket, for the manager to keep")
            wait_for(lambda: hear("READY=1"), 60, "word of readiness")
            edge.wait_status(200)
            edge.send([encode_frame("dev", 1, b"{}")])
            heard.clear()
            wait_for(lambda: hear("WATCHDOG=1"), 5, "the watchdog to be fed by an idle edge")
            assert "edge_started" not in edge.log.read_text()  # the level of the file

            file.write_text("KLAIS_LOG_LEVEL=info\nKLAIS_BREAKER_TIMEOUT_S=2\nKLAIS_PARTITIONS=9\n")
            edge.process.send_signal(signal.SIGHUP)
            wait_for(lambda: hear("RELOADING=1") and hear("READY=1"), 5, "word of the reload")
            events = ("settings_reloaded",)
            row = wait_for(lambda: [r for r in edge.rows() if r.get("event") in events], 5, "the reload in the log")[0]
            assert row["changed"] == {"breaker_timeout_s": 2.0, "log_level": "info"}
            assert row["needs_restart"] == ["KLAIS_PARTITIONS"]

            file.write_text("KLAIS_BREAKER_TIMEOUT_S=never\n")
            edge.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "reload_refused" in edge.log.read_text(), 5, "a wrong file to be refused")
            assert edge.get("/health")[0] == 200
            edge.process.send_signal(signal.SIGTERM)
            wait_for(lambda: hear("STOPPING=1"), 10, "word of the end")
            assert exit_code(edge.process, 10, edge.tail) == 0
        finally:
            kill_hard(edge.process)
