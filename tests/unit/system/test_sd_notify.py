"""What a service manager hears: a real datagram socket in its place."""

import errno
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from klais.system.sd_notify import Notifier
from tests.support.process import PATIENCE


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@klais-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(2 * PATIENCE)
        yield sock, name


def heard(sock: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().splitlines())


def test_ready_status_reload_and_stop(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("waits for Kafka", still_starting_s=30)
    assert heard(sock) == {"STATUS": "waits for Kafka", "EXTEND_TIMEOUT_USEC": "30000000"}
    notifier.ready("receives")
    assert heard(sock) == {"READY": "1", "STATUS": "receives"}
    notifier.status("receives")  # known already
    notifier.reloading()
    said = heard(sock)
    assert said.pop("RELOADING") == "1" and int(said.pop("MONOTONIC_USEC")) > 0 and not said
    notifier.stopping("drains")
    assert heard(sock) == {"STOPPING": "1", "STATUS": "drains"}


def test_the_watchdog_hears_from_us_three_times_in_its_time(manager: tuple[socket.socket, str]) -> None:
    sock, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    for tenth in range(31):
        notifier.ping_watchdog(100 + tenth / 10)
    sock.setblocking(False)
    beats = 0
    with pytest.raises(BlockingIOError):
        while heard(sock) == {"WATCHDOG": "1"}:
            beats += 1
    assert beats == 4


def test_a_watchdog_of_another_process_is_not_ours(manager: tuple[socket.socket, str]) -> None:
    env = {"NOTIFY_SOCKET": manager[1], "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Notifier(env).watchdog_s == 0.0


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    for env in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        notifier = Notifier(env)
        notifier.ready("receives")
        notifier.ping_watchdog(1.0)
        assert notifier.watchdog_s == 0.0


@pytest.mark.parametrize("usec", ["\u00b2", "\uff11", "9" * 5000, "-1", "nan", ""])
def test_what_is_no_time_of_a_watchdog_means_none(usec: str) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec}).watchdog_s == 0.0


def test_a_process_without_descriptors_left_goes_on(
    manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    notifier = Notifier({"NOTIFY_SOCKET": manager[1], "WATCHDOG_USEC": "3000000"})
    monkeypatch.setattr(socket, "socket", none_left)
    notifier.ping_watchdog(1.0)
    notifier.store(manager[0], "klais-udp")
