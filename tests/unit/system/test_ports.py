"""Ports: free, taken, by whom."""

import os
import socket
from collections.abc import Iterator

import pytest

from klais.errors import PortInUse
from klais.system.ports import Kind, check_port, free_port, holder

TYPES: dict[Kind, socket.SocketKind] = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.fixture(params=["tcp", "udp"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def taken(kind: Kind) -> Iterator[int]:
    with socket.socket(socket.AF_INET, TYPES[kind]) as holding:
        holding.bind(("127.0.0.1", 0))
        if kind == "tcp":
            holding.listen()
        yield holding.getsockname()[1]


def test_a_taken_port_is_named_with_process_and_setting(kind: Kind, taken: int) -> None:
    with pytest.raises(PortInUse) as caught:
        check_port("127.0.0.1", taken, kind, "KLAIS_SOME_PORT")
    text = str(caught.value)
    for part in (f"{kind} port {taken} on 127.0.0.1 is taken by", f"(pid {os.getpid()})", "KLAIS_SOME_PORT"):
        assert part in text


def test_a_port_taken_on_loopback_is_taken_for_all_addresses(kind: Kind, taken: int) -> None:
    with pytest.raises(PortInUse):
        check_port("0.0.0.0", taken, kind)


def test_the_same_number_of_the_other_protocol_is_free(kind: Kind, taken: int) -> None:
    other: Kind = "udp" if kind == "tcp" else "tcp"
    assert holder(taken, other) is None
    check_port("127.0.0.1", taken, other)


def test_a_free_port_passes_and_zero_always_does(kind: Kind) -> None:
    check_port("127.0.0.1", free_port(kind=kind), kind)
    check_port("127.0.0.1", 0, kind)
    check_port("localhost", free_port(kind=kind), kind)


def test_a_port_that_is_closing_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            peer, _ = server.accept()
            peer.close()  # this side closes first: its end stays in TIME_WAIT
    check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_another_error() -> None:
    with pytest.raises(OSError, match="assign"):
        check_port("192.0.2.1", 0)
