"""Sockets that outlive a process: what a child inherits, and what a supervisor and systemd are given."""

import array
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.edge import drop_record
from klais.edge.drop_record import DropRecord
from klais.edge.listener import listen, udp_sockets
from klais.edge.supervisor.fleet import hold_sockets
from klais.errors import ConfigError
from klais.system import activation
from klais.system.activation import HeldSocket, InheritedSocket, drop_count, inherited_sockets
from klais.system.address import Bind, open_udp_socket
from klais.system.sd_notify import Notifier
from tests.support.process import PATIENCE

LOOPBACK = Bind("127.0.0.1", 0)


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with open_udp_socket(LOOPBACK, share_port=False) as sock:
        yield sock


def overflow(sock: socket.socket) -> int:
    """Send until the kernel drops; how many datagrams were sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(sock.getsockname())
        for _ in range(50):
            sender.send(b"x" * 500)
    return 50


def drain(sock: socket.socket) -> int:
    found = 0
    while True:
        try:
            sock.recv(1000)
        except BlockingIOError:
            return found
        found += 1


def test_nothing_is_inherited_without_the_variables_or_with_another_process_s() -> None:
    env = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "2", "OTHER": "kept"}
    assert inherited_sockets(env) == [] and env == {"OTHER": "kept"}
    assert inherited_sockets({}) == []


@pytest.mark.parametrize("count", ["", "-1", "\u00b2", "\uff11", "1e3", "9" * 5000, " 1", "0"])
def test_what_is_no_number_of_sockets_means_none(count: str) -> None:
    assert inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}) == []


@pytest.mark.parametrize("drops", ["\u00b2", "9" * 5000, "-1", "x"])
def test_sockets_that_are_named_and_missing_are_a_clear_error(
    udp: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drops: str
) -> None:
    with open(tmp_path / "file", "wb") as file:
        first = os.dup(udp.fileno())
        os.dup2(file.fileno(), first + 1)
        monkeypatch.setattr(activation, "FIRST_FD", first)
        env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_DROPS": drops}
        (found,) = inherited_sockets(dict(env))
        assert found.drops is None and found.socket.getsockname() == udp.getsockname()
        found.socket.close()
        os.close(first + 1)
        os.dup2(udp.fileno(), first)
        with pytest.raises(ConfigError, match=f"LISTEN_FDS=2: descriptor {first + 1} cannot be used: Bad file"):
            inherited_sockets(dict(env))


def test_an_inherited_socket_is_named_once(udp: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.dup(udp.fileno())
    monkeypatch.setattr(activation, "FIRST_FD", fd)
    env = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "klais-udp", "LISTEN_DROPS": "7"}
    (found,) = inherited_sockets(env)
    assert (found.name, found.drops, found.socket.getsockname()) == ("klais-udp", 7, udp.getsockname())
    assert not found.socket.get_inheritable() and found.socket.gettimeout() == 0
    assert inherited_sockets(env) == [] and env == {}
    found.socket.close()


CHILD = """
import sys
from klais.system.activation import inherited_sockets
(one,) = inherited_sockets()
data = one.socket.recv(100)
print(one.name, one.socket.fileno(), data.decode(), one.drops, flush=True)
sys.exit(3)
"""


def test_a_child_reads_what_arrived_before_it_started(udp: socket.socket, tmp_path: Path) -> None:
    held = HeldSocket(udp, 65_536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for text in (b"first", b"second"):
            sender.sendto(text, udp.getsockname())
            log = tmp_path / text.decode()
            child = held.spawn([sys.executable, "-c", CHILD], log, dict(os.environ))
            assert child.wait(30 * PATIENCE) and child.returncode == 3, log.read_text()
            assert log.read_text().split() == ["klais-udp", "3", text.decode(), "0"]


def test_what_the_kernel_drops_while_nobody_reads_is_counted_by_the_next_reader(udp: socket.socket) -> None:
    held = HeldSocket(udp, 65_536)
    first = held.spawn([sys.executable, "-c", "pass"], None, dict(os.environ))
    assert first.wait(30 * PATIENCE)
    sent = overflow(udp)
    assert drop_count(udp) > 0
    settings = Settings(udp_bind=f"127.0.0.1:{udp.getsockname()[1]}", udp_rcvbuf_bytes=65_536)
    (fit,) = udp_sockets(settings, [InheritedSocket(udp.dup(), "klais-udp", held._drops)])
    from klais.edge.sources.udp.socket import UdpSocket

    reader = UdpSocket(fit.socket, 65_536, fit.drops, inherited=True)
    assert drain(reader.socket) + reader.drops() == sent
    stranger = UdpSocket(udp.dup(), 65_536, None, inherited=True)
    assert stranger.drops() == 0, "what others may have reported already is not counted again"
    reader.close()
    stranger.close()


def test_an_inherited_socket_keeps_the_larger_buffer_its_owner_gave_it(udp: socket.socket) -> None:
    from klais.edge.sources.udp.socket import UdpSocket

    held = HeldSocket(udp, 1 << 20)
    granted = udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    reader = UdpSocket(held.socket.dup(), 65_536, 0, inherited=True)
    assert reader.granted_bytes == granted > 65_536
    reader.close()


def test_the_buffer_is_there_before_the_first_frame_can_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Watched(socket.socket):
        def bind(self, address) -> None:
            seen.append(self.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2)
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Watched)
    for size in (16_384, 32_768):
        open_udp_socket(LOOPBACK, False, None, size).close()
    assert seen == [16_384, 32_768]


@pytest.mark.parametrize("through_supervisor", [False, True])
def test_drops_of_a_new_socket_before_its_first_reading_are_counted(
    monkeypatch: pytest.MonkeyPatch, through_supervisor: bool
) -> None:
    from klais.edge.sources.udp import socket as udp_socket

    sock = open_udp_socket(LOOPBACK, False)
    sent = overflow(sock)  # as on a busy machine, where the process does not run between the bind and what follows
    if through_supervisor:
        held = HeldSocket(sock, 65_536, counted=0)
        reader = udp_socket.UdpSocket(held.socket, 65_536, held._drops, inherited=True)
    else:
        monkeypatch.setattr(udp_socket, "open_udp_socket", lambda *_: sock)
        reader = udp_socket.UdpSocket.bind("127.0.0.1:0", 65_536)
    assert drain(reader.socket) + reader.drops() == sent > reader.drops() > 0
    reader.close()


def test_a_socket_on_another_port_than_the_setting_s_is_refused(udp: socket.socket) -> None:
    with pytest.raises(ConfigError, match=r"passes a UDP socket on port .* KLAIS_UDP_BIND is 0.0.0.0:5000"):
        udp_sockets(Settings(), [InheritedSocket(udp, "klais-udp", None)])


def test_an_edge_gives_the_socket_it_bound_to_the_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        udp = listen(Settings(udp_bind="127.0.0.1:0", udp_rcvbuf_bytes=65_536), notifier)
        data, controls, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(4))
        (fd,) = array.array("i", controls[0][2])
        with socket.socket(fileno=fd) as kept:
            assert data.decode().split("\n") == ["FDSTORE=1", "FDNAME=klais-udp", "FDPOLL=0"]
            assert kept.getsockname()[1] == udp.port
        udp.close()


def test_a_fleet_takes_what_it_inherits_and_makes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_udp_socket(LOOPBACK, share_port=True)
    port = first.getsockname()[1]
    fd = os.dup(first.fileno())
    monkeypatch.setattr(activation, "FIRST_FD", fd)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    settings = Settings(udp_bind=f"127.0.0.1:{port}", udp_rcvbuf_bytes=65_536, edge_workers=3)
    held = hold_sockets(settings)
    assert [one.socket.getsockname()[1] for one in held] == [port] * 3
    assert held[0].socket.fileno() == fd and "LISTEN_FDS" not in os.environ
    for one in held:
        one.close()
    first.close()


def test_a_fleet_refuses_an_inherited_socket_that_does_not_share_its_port(
    udp: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "FIRST_FD", os.dup(udp.fileno()))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    settings = Settings(udp_bind=f"127.0.0.1:{udp.getsockname()[1]}", edge_workers=2)
    with pytest.raises(ConfigError, match="ReusePort=yes"):
        hold_sockets(settings)


@pytest.mark.parametrize("through_supervisor", [False, True])
def test_each_drop_at_a_socket_of_systemd_is_counted_by_one_of_the_processes_that_read_it_in_turn(
    udp: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, through_supervisor: bool
) -> None:
    """From boot on, while nobody reads, and also after a process that was killed."""
    settings = Settings(udp_bind=f"127.0.0.1:{udp.getsockname()[1]}", state_dir=tmp_path / "state")

    def next_process(drops: int | None = None):
        fd = os.dup(udp.fileno())
        monkeypatch.setattr(activation, "FIRST_FD", fd)
        for name, value in (("LISTEN_PID", os.getpid()), ("LISTEN_FDS", 1), ("LISTEN_DROPS", drops)):
            monkeypatch.setenv(name, "" if value is None else str(value))
        if not through_supervisor or drops is not None:
            return listen(settings)
        (held,) = hold_sockets(settings)
        counted = held._drops
        held.close()
        return next_process(counted)

    sent, received, dropped = 0, 0, []
    for _ in range(3):
        sent += overflow(udp)  # nobody reads
        reader = next_process()
        received += drain(reader.socket)
        sent += overflow(udp)
        received += drain(reader.socket)
        dropped.append(reader.drops())
        reader.socket.close()  # a kill: without the last reading
    assert min(dropped) > 0 and received + sum(dropped) == sent
    (file,) = (tmp_path / "state" / "udp-drops").iterdir()
    assert int(file.read_text()) == drop_count(udp)


def test_two_processes_that_read_at_once_count_each_drop_once(udp: socket.socket, tmp_path: Path) -> None:
    """As during a rolling upgrade."""
    from klais.edge.sources.udp.socket import UdpSocket

    settings, sent, received = Settings(state_dir=tmp_path / "state"), 0, 0
    old = UdpSocket(udp.dup(), 65_536, 0, inherited=True, claims=DropRecord(settings, udp))
    sent += overflow(udp)
    received += drain(old.socket)
    before = old.drops()
    new = UdpSocket(udp.dup(), 65_536, drop_count(udp), inherited=True, claims=DropRecord(settings, udp))
    for first, second in ((new, old), (old, new)):
        sent += overflow(udp)
        received += drain(first.socket)
        first.drops()
        second.drops()
    assert received + old.drops() + new.drops() == sent and old.drops() > before and new.drops() > 0
    old.close()
    new.close()


def test_an_edge_whose_state_folder_cannot_be_written_counts_drops_all_the_same(
    udp: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file")
    settings = Settings(udp_bind=f"127.0.0.1:{udp.getsockname()[1]}", state_dir=tmp_path / "state")
    monkeypatch.setattr(activation, "FIRST_FD", os.dup(udp.fileno()))
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    sent = overflow(udp)
    reader = listen(settings)
    assert drain(reader.socket) + reader.drops() == sent > reader.drops() > 0
    assert [record.message for record in caplog.records].count("drop_record_failed") >= 1
    reader.close()


def test_a_process_that_is_stopped_with_the_lock_holds_no_reader_up(udp: socket.socket, tmp_path: Path) -> None:
    record, other = DropRecord(Settings(state_dir=tmp_path), udp), DropRecord(Settings(state_dir=tmp_path), udp)
    assert record.claim(0, 4) == 4
    (file,) = (tmp_path / "udp-drops").iterdir()
    with open(file) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert other.claim(0, 9) is None
    assert other.claim(0, 9) == 5
    record.close()
    other.close()


def test_a_sandbox_without_a_boot_id_does_not_stop_the_edge(
    udp: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drop_record, "_BOOT_ID", tmp_path / "none")
    record = DropRecord(Settings(state_dir=tmp_path), udp)
    assert record.claim(3, 10) == 7 and record.counted() == 0 and list(tmp_path.iterdir()) == []


def test_files_of_sockets_before_this_boot_are_removed(udp: socket.socket, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    folder = tmp_path / "udp-drops"
    folder.mkdir(mode=0o700)
    (folder / "another-boot-7").write_text("5")
    record = DropRecord(settings, udp)
    assert record.claim(0, 12) == 12 and record.claim(0, 4_294_967_295) == 0
    assert record.claim(0, 2_000_000_000) == 1_999_999_988 and record.claim(0, 4_000_000_000) == 2_000_000_000
    assert record.claim(0, 5) == 294_967_301, "it wraps"
    assert [DropRecord(settings, udp).counted(), len(list(folder.iterdir()))] == [5, 1]
    record.close()
