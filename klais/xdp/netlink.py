"""XDP programs of interfaces with rtnetlink: read, attach, replace, detach. None of these affects a program that is not
ours.

A program attached this way stays when its loader exits for any reason (a BPF link is removed with its owner).
"""

import errno
import os
import socket
import struct
from dataclasses import dataclass

from klais.errors import XdpForeign, XdpUnavailable

_NEWLINK, _GETLINK, _SETLINK, _ERROR, _DONE = 16, 18, 19, 2, 3
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_IFNAME, _LINK_XDP, _LINKINFO, _NESTED = 3, 43, 18, 0x8000
_XDP_FD, _XDP_ATTACHED, _XDP_FLAGS, _XDP_PROG_ID, _XDP_EXPECTED_FD = 1, 2, 3, 4, 8
_DRV_ID, _SKB_ID, _HW_ID = 5, 6, 7
_INFO_KIND = 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_ACK_MESSAGE = 1  # NLMSGERR_ATTR_MSG
NOEXIST, GENERIC, NATIVE, HARDWARE, REPLACE = 1, 2, 4, 8, 16
_MODES = {1: "native", 2: "generic", 3: "hardware", 4: "several"}
FLAG_OF_MODE = {"native": NATIVE, "generic": GENERIC, "hardware": HARDWARE}


@dataclass(frozen=True, slots=True)
class Link:
    """An interface and the XDP program on it; ``prog_id`` 0 = none."""

    name: str
    ifindex: int
    kind: str
    mode: str | None
    prog_id: int


def links() -> list[Link]:
    """All interfaces of this network namespace."""
    request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
    return [_link(body) for kind, body in _talk(_GETLINK, _REQUEST | _DUMP, request) if kind == _NEWLINK]


def link(name: str) -> Link:
    """One interface by name.

    Raises
    ------
    XdpUnavailable
        If there is none with that name; the message has the existing names.
    """
    try:
        ifindex = socket.if_nametoindex(name)
    except OSError:
        known = ", ".join(other for _, other in socket.if_nameindex())
        raise XdpUnavailable(f"there is no interface {name!r}, only {known}") from None
    request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, ifindex, 0, 0)
    for kind, body in _talk(_GETLINK, _REQUEST, request):
        if kind == _NEWLINK:
            return _link(body)
    raise XdpUnavailable(f"the kernel reports nothing about interface {name!r}")


def attach(at: Link, prog_fd: int, mode: str) -> None:
    """Attach a program to an interface that has none.

    Raises
    ------
    XdpForeign
        If another program was attached first.
    OSError
        If the driver refuses (EOPNOTSUPP: no native mode; ERANGE, EINVAL: MTU or features), with its reason.
    """
    try:
        _set(at.ifindex, prog_fd, NOEXIST | FLAG_OF_MODE[mode], None)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            raise XdpForeign(f"{at.name} already has an XDP program ({error.strerror})") from None
        raise


def replace(at: Link, prog_fd: int, old_fd: int) -> None:
    """Replace the program ``old_fd`` in one step: every packet is judged by one of the two.

    Raises
    ------
    XdpForeign
        If the program of the interface is no longer ``old_fd``.
    """
    try:
        _set(at.ifindex, prog_fd, REPLACE | FLAG_OF_MODE.get(at.mode or "", 0), old_fd)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.EBUSY):
            raise XdpForeign(f"the program on {at.name} was changed by another process ({error.strerror})") from None
        raise


def detach(at: Link, old_fd: int) -> None:
    """Detach ``old_fd`` from the interface; raises XdpForeign if it has another program."""
    replace(at, -1, old_fd)


def _set(ifindex: int, prog_fd: int, flags: int, expected_fd: int | None) -> None:
    inner = _attribute(_XDP_FD, struct.pack("=i", prog_fd)) + _attribute(_XDP_FLAGS, struct.pack("=I", flags))
    if expected_fd is not None:
        inner += _attribute(_XDP_EXPECTED_FD, struct.pack("=i", expected_fd))
    request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, ifindex, 0, 0) + _attribute(_LINK_XDP | _NESTED, inner)
    _talk(_SETLINK, _REQUEST | _ACK, request)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += (size + 3) & ~3
    return found


def _link(body: bytes) -> Link:
    ifindex = struct.unpack_from("=BxHi", body)[2]
    found = _attributes(body[16:])
    xdp = _attributes(found.get(_LINK_XDP, b""))
    attached = xdp.get(_XDP_ATTACHED, b"\0")[0]
    ids = [xdp[kind] for kind in (_XDP_PROG_ID, _DRV_ID, _SKB_ID, _HW_ID) if kind in xdp]
    return Link(
        name=found.get(_IFNAME, b"?\0")[:-1].decode(errors="replace"),
        ifindex=ifindex,
        kind=_attributes(found.get(_LINKINFO, b"")).get(_INFO_KIND, b"").rstrip(b"\0").decode() or "device",
        mode=_MODES.get(attached),
        prog_id=struct.unpack("=I", ids[0])[0] if attached and ids else 0,
    )


def _talk(kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """Send one request and receive its answers: (message type, body) each."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
        sock.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        sock.settimeout(10)
        sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        answers: list[tuple[int, bytes]] = []
        while True:
            data, at = sock.recv(1 << 16), 0
            while at + 16 <= len(data):
                size, got = struct.unpack_from("=IH", data, at)
                answer = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if got == _ERROR:
                    _raise(answer)
                if got in (_DONE, _ERROR):
                    return answers
                answers.append((got, answer))
            if not flags & (_DUMP | _ACK):
                return answers


def _raise(answer: bytes) -> None:
    number = -struct.unpack_from("=i", answer)[0]
    if not number:
        return
    message = _attributes(answer[20:]).get(_ACK_MESSAGE, b"").rstrip(b"\0").decode(errors="replace")
    raise OSError(number, message or os.strerror(number))
