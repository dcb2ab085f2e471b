"""Load, replace and remove the filter. A program that is not ours is neither replaced nor removed.

All steps that can fail happen before the only one that affects packets: the kernel replaces the old program by the new
one atomically. A loader that is killed between two steps leaves the old filter or the new one running, and the next
load cleans up.
"""

import errno
import getpass
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

import klais
from klais.errors import XdpForeign, XdpUnavailable
from klais.xdp import bpf, bpffs, build, netlink
from klais.xdp.kernel_types import skb_tail
from klais.xdp.layout import BUCKET, CONFIG, GENERIC, PLACES, SPREAD, VERSION, MapSpec, map_specs, sets_of
from klais.xdp.limits import Limits, pack
from klais.xdp.maps import XdpMaps
from klais.xdp.pins import locked, read_spread, unavailable
from klais.xdp.sources import NO_SOURCE_LIMIT, SourceLimit

NO_TYPES = (
    "this kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): in generic mode a packet of several datagrams "
    "(UDP_SEGMENT, GRO) is judged by the first of them"
)
PROGRAM_NAME = build.FUNCTION
TABLE = ("sets", "owners", "spread")  # kept together or not at all
Mode = Literal["native", "generic", "auto"]
Fragments = Literal["pass", "drop"]


@dataclass(frozen=True, slots=True)
class Request:
    """A load request: what to load, where and how.

    ``limits`` apply while no controller sets any. ``mode`` auto = generic if the driver has no native mode.
    ``fragments``: ``pass`` or ``drop``.
    """

    iface: str
    pin_dir: Path
    ports: Sequence[int]
    limits: Limits
    heartbeat_s: float
    devices: int
    ring_bytes: int
    mode: Mode = "native"
    fragments: Fragments = "pass"
    source_limit: SourceLimit = NO_SOURCE_LIMIT


@dataclass(slots=True)
class Loaded:
    """Result of a load. ``replaced``: interfaces whose older filter was replaced; ``new_maps``: maps
    that start empty.
    """

    iface: str
    mode: str
    prog_id: int
    tag: str
    replaced: list[str] = field(default_factory=list)
    kept_maps: list[str] = field(default_factory=list)
    new_maps: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Attached:
    """Our filter on an interface."""

    link: netlink.Link
    prog: bpf.ProgInfo


def load(request: Request) -> Loaded:
    """Load the filter onto an interface; an existing one is replaced without a gap.

    Raises
    ------
    XdpUnavailable
        If rights, the interface or native mode are missing; the message has what to do.
    XdpForeign
        If the interface has a program that is not ours; the message names it.
    SetupMissing
        If the filter cannot be compiled on this machine.
    """
    code = build.instructions()
    at = netlink.link(request.iface)
    notices = bpffs.ensure(request.pin_dir)
    try:
        with _one_loader(request.pin_dir), ExitStack() as stack:
            _tidy(request.pin_dir)
            if at.prog_id and not _is_ours(at.prog_id, request.pin_dir):
                raise _foreign(at)
            return _load(request, code, at, notices, stack)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise unavailable(error, request.pin_dir) from None
        raise XdpUnavailable(f"the filter cannot be loaded onto {request.iface}: {error.strerror or error}") from None


def _load(request: Request, code: bytes, at: netlink.Link, notices: list[str], stack: ExitStack) -> Loaded:
    fds, kept = open_maps(request, stack)
    prog_fd = bpf.prog_load(build.relocate(code, fds), PROGRAM_NAME)
    stack.callback(os.close, prog_fd)
    info = bpf.prog_info(prog_fd)
    done = Loaded(at.name, "", info.id, info.tag, kept_maps=kept, notices=notices)
    done.new_maps = [name for name in fds if name not in kept]
    first = not any(request.pin_dir.iterdir())
    older = attached(request.pin_dir)
    bpffs.pin_new(request.pin_dir, {name: fds[name] for name in done.new_maps} | {bpffs.PROGRAM: prog_fd})
    try:
        for other in older:
            _replace(other.link, prog_fd, other.prog.id)
            done.replaced.append(other.link.name)
        done.mode = at.mode or "" if at.prog_id else _attach(at, prog_fd, request.mode, notices)
    except BaseException:
        if first:
            bpffs.remove(request.pin_dir)
        raise
    bpffs.promote(request.pin_dir)
    bpffs.keep_only(request.pin_dir, {*fds, bpffs.PROGRAM})
    bpffs.reader_folder(request.pin_dir)
    _configure(request, done)
    return done


def open_maps(request: Request, stack: ExitStack) -> tuple[dict[str, int], list[str]]:
    """Descriptors of all maps: the pinned ones if they fit, else new ones; and the names of those kept."""
    specs = map_specs(request.devices, 1 << (request.ring_bytes - 1).bit_length())
    fds: dict[str, int] = {}
    if _pinned_version(request.pin_dir) == VERSION:
        fds = {spec.name: fd for spec in specs if (fd := _pinned(request.pin_dir / spec.name, spec)) is not None}
    stack.callback(_close_all, fds)
    multipliers = read_spread(fds["spread"])["multipliers"] if "spread" in fds else _drawn_multipliers()
    for name in TABLE if not fds.keys() >= set(TABLE) else ():
        if name in fds:
            os.close(fds.pop(name))
    kept = [spec.name for spec in specs if spec.name in fds]
    for spec in specs:
        if spec.name not in fds:
            fds[spec.name] = _made(spec)
    if "config" not in kept:
        _write_config(fds["config"], request)
    if "spread" not in kept:
        _write_spread(fds["spread"], sets_of(request.devices), multipliers)
    if "bucket" not in kept:
        fill_bucket(fds["bucket"], request.limits)
    return fds, kept


def _made(spec: MapSpec) -> int:
    return bpf.map_create(spec.kind, spec.key_bytes, spec.value_bytes, spec.entries, spec.flags, spec.kernel_name)


def _close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _pinned(path: Path, spec: MapSpec) -> int | None:
    """The map pinned at ``path`` if it matches ``spec``, else None."""
    try:
        fd = bpf.get(path)
    except FileNotFoundError:
        return None
    info = bpf.map_info(fd)
    if MapSpec(spec.name, info.kind, info.key_bytes, info.value_bytes, info.entries, info.flags) == spec:
        return fd
    os.close(fd)
    return None


def _pinned_version(pin_dir: Path) -> int | None:
    fd = _pinned(pin_dir / "config", map_specs(1, 4096)[0])
    if fd is None:
        return None
    config = np.zeros((), CONFIG)
    bpf.lookup(fd, np.zeros(1, np.uint32), config)
    os.close(fd)
    return int(config["version"])


def _write_config(fd: int, request: Request) -> None:
    config = np.zeros((), CONFIG)
    config["version"], config["heartbeat_ns"] = VERSION, int(request.heartbeat_s * 1e9)
    config["slots"][:] = pack(request.limits)
    bpf.update(fd, np.zeros(1, np.uint32), config)


def _drawn_multipliers() -> npt.NDArray[np.uint64]:
    """Random multipliers for a table (uint64 [PLACES, 4]): an attacker cannot target a set."""
    return np.frombuffer(os.urandom(SPREAD["multipliers"].itemsize), np.uint64).reshape(PLACES, -1)


def _write_spread(fd: int, sets: int, multipliers: npt.NDArray[np.uint64]) -> None:
    """Write size and multipliers; a table of another size keeps its multipliers, because the marks depend on them."""
    spread = np.zeros((), SPREAD)
    spread["multipliers"] = multipliers
    spread["shift"] = 65 - sets.bit_length()
    bpf.update(fd, np.zeros(1, np.uint32), spread)


def fill_bucket(fd: int, limits: Limits) -> None:
    """Fill the global bucket for the start."""
    bucket = np.zeros((), BUCKET)
    bucket["credit_units"], bucket["last_ns"] = pack(limits)["global"]["cap_units"], time.monotonic_ns()
    bpf.update(fd, np.zeros(1, np.uint32), bucket)


def _configure(request: Request, done: Loaded) -> None:
    """Write the values of each load: ports, limits, fragments, who loaded it. Set-points, rules and modes stay."""
    with XdpMaps.open(request.pin_dir) as maps:
        maps.sweep()  # sets all marks again: their map may be new and the rules old
        maps.sources.refresh()
        maps.source_blocks.refresh()
        maps.sources.set_limit(request.source_limit)
        maps.set_fragments(request.fragments)
        _note_generic(request.pin_dir, maps, done.notices)
        maps.set_ports(request.ports)
        maps.set_limits_at_load(request.limits, request.heartbeat_s)
        maps.set_about(
            {
                "klais": klais.__version__,
                "user": _user(),
                "pid": os.getpid(),
                "host": socket.gethostname()[:64],
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "iface": done.iface,
            }
        )


def _note_generic(pin_dir: Path, maps: XdpMaps, notices: list[str]) -> None:
    """Write which interfaces pass socket buffers to the filter, and where those show if they are aggregated."""
    generic = [found.link.ifindex for found in attached(pin_dir) if found.link.mode == "generic"]
    if len(generic) > GENERIC:
        notices.append(
            f"more than {GENERIC} interfaces are in generic mode: aggregated packets of the others are judged as one"
        )
    tail = skb_tail() if generic else 0
    if tail is None:
        notices.append(NO_TYPES)
    maps.set_generic(generic[:GENERIC], tail or 0)


def _attach(at: netlink.Link, prog_fd: int, mode: Mode, notices: list[str]) -> str:
    """Attach to an interface without a program; returns the resulting mode."""
    if mode != "generic":
        try:
            netlink.attach(at, prog_fd, "native")
            return "native"
        except OSError as error:
            if mode == "native":
                fix = "`--mode generic` works on any interface, at a tenth of the speed"
                raise XdpUnavailable(
                    f"{at.name} does not take the filter in native mode ({error.strerror}): {fix}"
                ) from None
            notices.append(
                f"{at.name} has no native mode ({error.strerror}): attached in generic mode, ten times as slow"
            )
    netlink.attach(at, prog_fd, "generic")
    return "generic"


def _replace(at: netlink.Link, prog_fd: int, old_id: int) -> None:
    old_fd = bpf.by_id(bpf.PROG_FD_BY_ID, old_id)
    try:
        netlink.replace(at, prog_fd, old_fd)
    finally:
        os.close(old_fd)


def unload(pin_dir: Path, iface: str | None = None, keep_maps: bool = False) -> list[str]:
    """Detach the filter from one interface, or from all. When it is on none any more, its pins are removed too.

    Returns
    -------
    list of str
        Interfaces from which it was detached.
    """
    if iface is not None:
        at = netlink.link(iface)
        if at.prog_id and not _is_ours(at.prog_id, pin_dir):
            raise _foreign(at)
    gone = []
    try:
        with _one_loader(pin_dir):
            ours = attached(pin_dir)
            for found in ours:
                if iface in (None, found.link.name):
                    _replace(found.link, -1, found.prog.id)
                    gone.append(found.link.name)
            if len(gone) == len(ours) and not keep_maps and pin_dir.is_dir():
                bpffs.remove(pin_dir)
    except OSError as error:
        raise unavailable(error, pin_dir) from None
    return gone


def attached(pin_dir: Path) -> list[Attached]:
    """Interfaces of this network namespace with the filter of ``pin_dir``."""
    found = []
    for at in netlink.links():
        if at.prog_id and _is_ours(at.prog_id, pin_dir):
            found.append(Attached(at, program(at.prog_id)))
    return found


def program(prog_id: int) -> bpf.ProgInfo:
    """The kernel's information about a program."""
    fd = bpf.by_id(bpf.PROG_FD_BY_ID, prog_id)
    try:
        return bpf.prog_info(fd)
    finally:
        os.close(fd)


def _is_ours(prog_id: int, pin_dir: Path) -> bool:
    """Whether a program uses the maps of ``pin_dir`` (its name alone is no proof)."""
    map_ids = program(prog_id).map_ids
    for name in ("config", bpffs.NEW + "config"):
        try:
            fd = bpf.get(pin_dir / name)
        except FileNotFoundError:
            continue
        number = bpf.map_info(fd).id
        os.close(fd)
        if number in map_ids:
            return True
    return False


def _foreign(at: netlink.Link) -> XdpForeign:
    info = program(at.prog_id)
    who = f"the XDP program {info.name or '(without a name)'!r} (id {info.id}, tag {info.tag}, {at.mode} mode)"
    fix = f"it is not ours and stays as it is; `ip link set dev {at.name} xdp off` removes it if necessary"
    return XdpForeign(f"{at.name} carries {who}: {fix}")


def _tidy(pin_dir: Path) -> None:
    """Clean up after a loader that was killed: complete what it attached, remove the rest."""
    left = list(bpffs.pending(pin_dir))
    if not left:
        return
    program_path = pin_dir / (bpffs.NEW + bpffs.PROGRAM)
    running = {found.prog.id for found in attached(pin_dir)}
    if program_path in left:
        fd = bpf.get(program_path)
        number = bpf.prog_info(fd).id
        os.close(fd)
        if number in running:
            bpffs.promote(pin_dir)
            return
    for path in left:
        path.unlink()


def _user() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@contextmanager
def _one_loader(pin_dir: Path) -> Iterator[None]:
    """Allow one loader at a time. It locks the parent folder, because writers of the maps lock the folder itself."""
    with locked(pin_dir.parent):
        yield
