"""Ports: free, taken, by whom."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from klais.errors import ConfigError, PortInUse
from klais.system import ports
from klais.system.ports import Kind, check_port, free_port, holder

TYPES: dict[Kind, socket.SocketKind] = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.fixture(params=["tcp", "udp"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def hold(kind: Kind) -> socket.socket:
    """A socket that holds a port of loopback which the kernel chose."""
    holding = socket.socket(socket.AF_INET, TYPES[kind])
    holding.bind(("127.0.0.1", 0))
    if kind == "tcp":
        holding.listen()
    return holding


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@pytest.fixture
def taken(kind: Kind) -> Iterator[int]:
    with hold(kind) as holding:
        yield port_of(holding)


def test_a_taken_port_is_named_with_process_and_setting(kind: Kind, taken: int) -> None:
    with pytest.raises(PortInUse) as caught:
        check_port("127.0.0.1", taken, kind, "KLAIS_SOME_PORT")
    text = str(caught.value)
    for part in (f"{kind} port {taken} on 127.0.0.1 is taken by", f"(pid {os.getpid()})", "KLAIS_SOME_PORT"):
        assert part in text


def test_a_port_taken_on_loopback_is_taken_for_all_addresses(kind: Kind, taken: int) -> None:
    with pytest.raises(PortInUse):
        check_port("0.0.0.0", taken, kind)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nowhere.invalid", "no such host name or address"),
        ("x" * 70 + ".example", "no such host name or address"),
        ("192.0.2.1", "no interface of this machine has this address"),
    ],
)
def test_an_address_that_cannot_be_bound_is_named_with_the_setting(kind: Kind, host: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind} port 7000 of .*{why}.*KLAIS_X_BIND"):
        check_port(host, 7000, kind, "KLAIS_X_BIND")


def passes(try_one: Callable[[], None]) -> None:
    """Assert that a check lets a port pass that is free, as far as this test can know.

    Between two system calls of this test any other process may get a port that was free. So the check gets several
    ports, each with its own number: one that refuses free ports refuses them all.
    """
    for _ in range(9):
        with contextlib.suppress(PortInUse, OSError):
            return try_one()
    return try_one()


def test_the_same_number_of_the_other_protocol_is_free(kind: Kind) -> None:
    other: Kind = "udp" if kind == "tcp" else "tcp"

    def try_one() -> None:
        with hold(kind) as held:
            check_port("127.0.0.1", port_of(held), other)

    passes(try_one)


def test_the_holder_is_the_process_that_is_in_the_way(kind: Kind, taken: int) -> None:
    own = f"(pid {os.getpid()})"
    for host in ("127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::", "localhost"):
        assert own in str(holder(taken, kind, host)), host
    for host in ("127.0.0.2", "::1", "192.0.2.1"):
        assert own not in str(holder(taken, kind, host)), host
    assert own not in str(holder(taken, "udp" if kind == "tcp" else "tcp"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_free_port_passes_and_zero_always_does(kind: Kind, host: str) -> None:
    passes(lambda: check_port(host, free_port(kind=kind), kind))
    check_port(host, 0, kind)


def test_a_port_that_is_closing_is_free() -> None:
    def try_one() -> None:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
            server.bind(("127.0.0.1", 0))
            server.listen()
            port = port_of(server)
            with socket.create_connection(("127.0.0.1", port)):
                peer, _ = server.accept()
                peer.close()  # this side closes first: its end stays in TIME_WAIT
        check_port("127.0.0.1", port)

    passes(try_one)


def test_the_message_names_the_setting_that_is_wrong() -> None:
    """An address that is not of this machine is no fault of the port's setting, and a taken port none of the host's."""
    with pytest.raises(ConfigError, match=r"\(KLAIS_WEB_BIND\)"):
        check_port("192.0.2.1", 6066, "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND")
    with pytest.raises(ConfigError, match=r"\(KLAIS_WEB_BIND\)"):
        check_port("klais.invalid", 6066, "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND")
    with socket.create_server(("127.0.0.1", 0)) as held, pytest.raises(PortInUse, match="with KLAIS_WEB_PORT"):
        check_port("127.0.0.1", held.getsockname()[1], "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND")


def test_who_holds_a_port_is_one_line() -> None:
    assert ports._title("python3", ["python3", "-c", "import os\nos.fork()"]) == "python3 import os\\nos.fork()"


def test_a_process_is_not_given_one_port_twice() -> None:
    begin = free_port()
    given: list[int] = []
    with contextlib.suppress(PortInUse):  # members of a fleet ask for their ports before they bind them
        while True:
            given.append(free_port(among=range(begin, begin + 100)))
    assert len(given) > 10 and len(set(given)) == len(given)
