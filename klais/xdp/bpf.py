"""``bpf(2)`` with ctypes: maps and programs by descriptor or pinned path, values as numpy arrays (no bcc or libbpf)."""

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}.get(platform.machine(), -1)
_ATTR_BYTES = 160  # larger than any attribute here; the kernel accepts zeros after the part it knows

# enum bpf_cmd of linux/bpf.h
MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, MAP_DELETE, MAP_NEXT_KEY, PROG_LOAD, OBJ_PIN, OBJ_GET = range(8)
PROG_TEST_RUN, PROG_NEXT_ID, MAP_NEXT_ID = 10, 11, 12
PROG_FD_BY_ID, MAP_FD_BY_ID, OBJ_INFO, MAP_LOOKUP_BATCH, MAP_UPDATE_BATCH = 13, 14, 15, 24, 26

_CURSOR_BYTES = 64  # state of a batch iteration: an index, or a whole key of the map

ANY, NOEXIST, EXIST = 0, 1, 2
PROG_TYPE_XDP = 6
ATTACH_XDP = 37
LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)

_libc = ctypes.CDLL(None, use_errno=True)
Array = npt.NDArray[Any]


def call(command: int, attr: npt.NDArray[np.void]) -> int:
    """Make one bpf(2) call with ``attr`` (any structured scalar of up to 160 bytes); returns its result.

    Raises
    ------
    OSError
        With the kernel's errno.
    """
    buffer = np.zeros(_ATTR_BYTES, np.uint8)
    raw = attr.tobytes()
    buffer[: len(raw)] = np.frombuffer(raw, np.uint8)
    result = int(_libc.syscall(_SYS_BPF, command, ctypes.c_void_p(buffer.ctypes.data), _ATTR_BYTES))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    attr[...] = np.frombuffer(buffer[: len(raw)].tobytes(), attr.dtype)[0]  # some commands write their result to it
    return result


def _attr(**fields: tuple[str, Any]) -> npt.NDArray[np.void]:
    """An attribute: ``name=("<u4", value)`` in the order of the kernel's union, packed as given."""
    dtype = np.dtype([(name, kind) for name, (kind, _) in fields.items()])
    out = np.zeros((), dtype)
    for name, (_, value) in fields.items():
        out[name] = value
    return out


def _address(array: Array | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


def _name(text: str) -> tuple[str, bytes]:
    return "S16", text.encode()[:15]


def map_create(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int, name: str) -> int:
    """Create a map; returns its descriptor (close-on-exec, as all here)."""
    return call(
        MAP_CREATE,
        _attr(
            kind=("<u4", kind), key=("<u4", key_bytes), value=("<u4", value_bytes), entries=("<u4", entries),
            flags=("<u4", flags), inner=("<u4", 0), node=("<u4", 0), name=_name(name),
        ),
    )  # fmt: skip


def prog_load(code: bytes, name: str, licence: bytes = b"GPL", log_bytes: int = 0) -> int:
    """Load an XDP program; returns its descriptor.

    Raises
    ------
    OSError
        If the verifier refused the program, ``strerror`` ends with its last lines.
    """
    instructions = np.frombuffer(code, np.uint8)
    text = np.frombuffer(licence + b"\0", np.uint8)
    log = np.zeros(log_bytes, np.uint8) if log_bytes else None
    attr = _attr(
        kind=("<u4", PROG_TYPE_XDP), count=("<u4", len(code) // 8), code=("<u8", _address(instructions)),
        licence=("<u8", _address(text)), log_level=("<u4", 1 if log_bytes else 0), log_size=("<u4", log_bytes),
        log=("<u8", _address(log)), kern_version=("<u4", 0), flags=("<u4", 0), name=_name(name), ifindex=("<u4", 0),
        attach=("<u4", ATTACH_XDP),
    )  # fmt: skip
    try:
        return call(PROG_LOAD, attr)
    except OSError as error:
        if log is None and error.errno in (errno.EACCES, errno.EINVAL, errno.E2BIG):
            return prog_load(code, name, licence, 1 << 22)
        lines = bytes(log[log != 0]).decode(errors="replace").strip().splitlines()[-12:] if log is not None else []
        raise OSError(error.errno, "\n".join([error.strerror or "", *lines])) from None


def lookup(fd: int, key: Array | None, value: Array) -> bool:
    """Read one value into ``value``; False if the key does not exist."""
    try:
        call(
            MAP_LOOKUP,
            _attr(fd=("<u8", fd), key=("<u8", _address(key)), value=("<u8", _address(value)), flags=("<u8", 0)),
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def update(fd: int, key: Array | None, value: Array, flags: int = ANY) -> None:
    """Write one value."""
    call(
        MAP_UPDATE,
        _attr(fd=("<u8", fd), key=("<u8", _address(key)), value=("<u8", _address(value)), flags=("<u8", flags)),
    )


def delete(fd: int, key: Array) -> bool:
    """Remove one key; False if it did not exist."""
    try:
        call(MAP_DELETE, _attr(fd=("<u8", fd), key=("<u8", _address(key))))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _batch(
    command: int, fd: int, keys: Array, values: Array, count: int, at: Array | None, then: Array | None
) -> tuple[int, int]:
    """Make one batch call; returns the number of processed elements, and the errno (0 = success)."""
    attr = _attr(
        at=("<u8", _address(at)), then=("<u8", _address(then)), keys=("<u8", _address(keys)),
        values=("<u8", _address(values)), count=("<u4", count), fd=("<u4", fd), elem_flags=("<u8", 0), flags=("<u8", 0),
    )  # fmt: skip
    buffer = np.zeros(_ATTR_BYTES, np.uint8)
    buffer[: attr.itemsize] = np.frombuffer(attr.tobytes(), np.uint8)
    result = int(_libc.syscall(_SYS_BPF, command, ctypes.c_void_p(buffer.ctypes.data), _ATTR_BYTES))
    number = ctypes.get_errno() if result < 0 else 0
    return int(buffer[: attr.itemsize].view(attr.dtype)[0]["count"]), number


def update_many(fd: int, keys: Array, values: Array) -> None:
    """Write n values: ``keys [n]``, ``values [n]`` of the map's types."""
    if len(keys):
        keys, values = np.ascontiguousarray(keys), np.ascontiguousarray(values)
        done, number = _batch(MAP_UPDATE_BATCH, fd, keys, values, len(keys), None, None)
        if number:
            raise OSError(number, f"{os.strerror(number)} (after {done} of {len(keys)} values)")


def lookup_array(fd: int, keys: Array, values: Array) -> int:
    """Read a whole array map, also per-CPU, in one call: keys [n] and values [n, ...] out; returns their number."""
    done, number = _batch(MAP_LOOKUP_BATCH, fd, keys, values, len(keys), None, np.zeros(_CURSOR_BYTES, np.uint8))
    if number not in (0, errno.ENOENT):
        raise OSError(number, os.strerror(number))
    return done


def batches(fd: int, key_dtype: Any, value_dtype: Any, size: int = 65_536) -> Iterator[tuple[Array, Array]]:
    """All elements of a hash, in batches of keys [n] and values [n] (n up to ``size``); one batch's arrays are
    reused.
    """
    keys, values = np.zeros(size, key_dtype), np.zeros(size, value_dtype)
    at, then = None, np.zeros(_CURSOR_BYTES, np.uint8)
    while True:
        done, number = _batch(MAP_LOOKUP_BATCH, fd, keys, values, size, at, then)
        if number == errno.ENOSPC:  # one hash bucket has more than `size` elements
            size *= 4
            keys, values = np.zeros(size, key_dtype), np.zeros(size, value_dtype)
            continue
        if number not in (0, errno.ENOENT):
            raise OSError(number, os.strerror(number))
        if done:
            yield keys[:done], values[:done]
        if number:  # ENOENT: end of the map
            return
        at, then = then, np.zeros(_CURSOR_BYTES, np.uint8)


def pin(fd: int, path: Path) -> None:
    """Pin a map or a program at ``path`` in a bpffs."""
    text = np.frombuffer(os.fsencode(path) + b"\0", np.uint8)
    call(OBJ_PIN, _attr(path=("<u8", _address(text)), fd=("<u4", fd), flags=("<u4", 0)))


def get(path: Path) -> int:
    """Open the object pinned at ``path``; returns its descriptor."""
    text = np.frombuffer(os.fsencode(path) + b"\0", np.uint8)
    return call(OBJ_GET, _attr(path=("<u8", _address(text)), fd=("<u4", 0), flags=("<u4", 0)))


def by_id(command: int, number: int) -> int:
    """A descriptor of the program (``PROG_FD_BY_ID``) or map (``MAP_FD_BY_ID``) with this id."""
    return call(command, _attr(id=("<u4", number), next=("<u4", 0), flags=("<u4", 0)))


def next_id(command: int, number: int) -> int | None:
    """The next program's or map's id after ``number`` (``PROG_NEXT_ID``, ``MAP_NEXT_ID``); None at the end."""
    attr = _attr(start=("<u4", number), next=("<u4", 0), flags=("<u4", 0))
    try:
        call(command, attr)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return int(attr["next"])


_MAP_INFO = np.dtype(
    [
        ("kind", "<u4"),
        ("id", "<u4"),
        ("key", "<u4"),
        ("value", "<u4"),
        ("entries", "<u4"),
        ("flags", "<u4"),
        ("name", "S16"),
    ]
)
_PROG_INFO = np.dtype(
    [
        ("kind", "<u4"), ("id", "<u4"), ("tag", "u1", (8,)), ("jited_len", "<u4"), ("xlated_len", "<u4"),
        ("jited", "<u8"), ("xlated", "<u8"), ("load_time", "<u8"), ("uid", "<u4"), ("map_count", "<u4"),
        ("map_ids", "<u8"), ("name", "S16"), ("between", "V136"), ("verified_insns", "<u4"), ("after", "V4"),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The kernel's information about a map."""

    id: int
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int
    name: str


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """The kernel's information about a program; ``loaded_ns`` is CLOCK_BOOTTIME, ``verified_insns`` the number of
    instructions that its verifier walked.
    """

    id: int
    tag: str
    name: str
    loaded_ns: int
    uid: int
    jited_bytes: int
    map_ids: tuple[int, ...]
    verified_insns: int


def map_info(fd: int) -> MapInfo:
    """The kernel's information about the map ``fd``."""
    info = np.zeros((), _MAP_INFO)
    call(OBJ_INFO, _attr(fd=("<u4", fd), size=("<u4", info.itemsize), info=("<u8", _address(info))))
    name = bytes(info["name"]).rstrip(b"\0").decode(errors="replace")
    number, kind, key, value, entries, flags = (
        int(info[f]) for f in ("id", "kind", "key", "value", "entries", "flags")
    )
    return MapInfo(number, kind, key, value, entries, flags, name)


def prog_info(fd: int) -> ProgInfo:
    """The kernel's information about the program ``fd``."""
    ids = np.zeros(64, np.uint32)
    info = np.zeros((), _PROG_INFO)
    info["map_count"], info["map_ids"] = len(ids), _address(ids)
    call(OBJ_INFO, _attr(fd=("<u4", fd), size=("<u4", info.itemsize), info=("<u8", _address(info))))
    return ProgInfo(
        id=int(info["id"]),
        tag=bytes(info["tag"]).hex(),
        name=bytes(info["name"]).rstrip(b"\0").decode(errors="replace"),
        loaded_ns=int(info["load_time"]),
        uid=int(info["uid"]),
        jited_bytes=int(info["jited_len"]),
        map_ids=tuple(int(number) for number in ids[: min(int(info["map_count"]), len(ids))]),
        verified_insns=int(info["verified_insns"]),
    )


def test_run(fd: int, packet: bytes, repeat: int = 1) -> tuple[int, float]:
    """Run a program on ``packet``; returns (action, mean ns of one run) for ``repeat`` runs (BPF_PROG_TEST_RUN)."""
    attr = _test_run(fd, packet, repeat)
    return int(attr["retval"]), float(attr["duration"])


def test_run_live(fd: int, packet: bytes, repeat: int, batch: int = 64) -> None:
    """Run a program on ``repeat`` copies of ``packet`` and perform its actions: redirect sends a packet (kernel >=
    5.18).

    The packets enter by the loopback interface of this network namespace.
    """
    _test_run(
        fd, packet, repeat,
        ctx_in_size=("<u4", 0), ctx_out_size=("<u4", 0), ctx_in=("<u8", 0), ctx_out=("<u8", 0),
        flags=("<u4", LIVE_FRAMES), cpu=("<u4", 0), batch=("<u4", batch),
    )  # fmt: skip


def _test_run(fd: int, packet: bytes, repeat: int, **more: tuple[str, Any]) -> npt.NDArray[np.void]:
    data = np.frombuffer(packet, np.uint8)
    attr = _attr(
        fd=("<u4", fd), retval=("<u4", 0), size_in=("<u4", len(packet)), size_out=("<u4", 0),
        data_in=("<u8", _address(data)), data_out=("<u8", 0), repeat=("<u4", repeat), duration=("<u4", 0), **more,
    )  # fmt: skip
    call(PROG_TEST_RUN, attr)
    return attr
