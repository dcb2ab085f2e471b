"""The filter's parsing and arithmetic compiled by ``cc`` (``bpf/test_library.c``), called from Python."""

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.xdp.layout import ADDRESS, BUCKET, OWNERS, PORTS, PREFIX, SET, SPREAD, Verdict

BPF = Path(__file__).parents[2] / "bpf"
PACKET = np.dtype([("ip", "<u8"), ("udp", "<u8"), ("length", "<u8")])
_FLAGS = [
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-fsanitize=undefined",
    "-fno-sanitize-recover",
]


class _Number(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_ulonglong)]


@dataclass(frozen=True)
class Judged:
    """Verdict of parsing and header, positions of the headers, the device's id."""

    verdict: Verdict
    packet: npt.NDArray[np.void]
    id: bytes


class Native:
    """The library; every call is the C function of that name."""

    def __init__(self, folder: Path) -> None:
        path = folder / "klais.so"
        command = [
            "cc",
            *_FLAGS,
            "-shared",
            "-fPIC",
            "-pthread",
            f"-I{BPF}",
            "-o",
            str(path),
            str(BPF / "test_library.c"),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self._library = ctypes.CDLL(str(path))
        self._ports = np.zeros((), PORTS)
        self._ports["bits"][5000 >> 6] = 1 << (5000 & 63)
        for name, result in (("key", ctypes.c_uint64), ("crowd", ctypes.c_long)):
            getattr(self._library, f"klais_test_{name}").restype = result

    def numbers(self) -> dict[str, int]:
        """All numbers that Python mirrors."""
        table = (_Number * 512).in_dll(self._library, "klais_numbers")
        found = {}
        for entry in table:
            if entry.name is None:
                return found
            found[entry.name.decode()] = int(entry.value)
        raise AssertionError("the table has no end")

    def judge(self, packet: bytes, any_port: bool = False) -> Judged:
        """Call ``klais_test_judge`` on bytes that end at a page end. The port is 5000, or any."""
        ports = np.full(1, -1, np.int64).repeat(1024) if any_port else self._ports
        out, raw_id = np.zeros((), PACKET), np.zeros(16, np.uint8)
        verdict = self._library.klais_test_judge(
            packet, ctypes.c_size_t(len(packet)), _pointer(ports), _pointer(out), _pointer(raw_id)
        )
        return Judged(Verdict(verdict), out, raw_id.tobytes())

    def key(self, spread: npt.NDArray[np.void], raw_id: bytes) -> int:
        """Key of 16 bytes of device_id."""
        assert len(raw_id) == 16
        return int(self._library.klais_test_key(_pointer(spread), raw_id))

    def source(self, ip: bytes, config: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.void], bytes] | None:
        """Key in ``src_allow`` and prefix of the source in an IP header; None if it is truncated."""
        key, prefix = np.zeros((), PREFIX), np.zeros((), ADDRESS)
        if not self._library.klais_test_source(
            ip, ctypes.c_size_t(len(ip)), _pointer(config), _pointer(key), _pointer(prefix)
        ):
            return None
        return key, prefix.tobytes()

    def is_good_id(self, raw_id: bytes) -> bool:
        """Whether 16 bytes are a device id."""
        assert len(raw_id) == 16
        return bool(self._library.klais_test_is_good_id(raw_id))

    def is_marked(self, marks: npt.NDArray[np.void], key: int) -> bool:
        """Whether a rule may exist for the key."""
        return bool(self._library.klais_test_is_marked(_pointer(marks), ctypes.c_uint64(key)))

    def take(self, bucket: npt.NDArray[np.void], limit: npt.NDArray[np.void], cost: int, now_ns: int) -> bool:
        """Take one frame from the bucket."""
        cost_, now_ = ctypes.c_int64(cost), ctypes.c_uint64(now_ns)
        return bool(self._library.klais_test_take(_pointer(bucket), _pointer(limit), cost_, now_))

    def crowd(
        self,
        bucket: npt.NDArray[np.void],
        limit: npt.NDArray[np.void],
        cost: int,
        start_ns: int,
        step_ns: int,
        threads: int,
        asks: int,
    ) -> tuple[int, int]:
        """Run many threads on one bucket; return (admitted, final time)."""
        clock = ctypes.c_uint64(start_ns)
        admitted = self._library.klais_test_crowd(
            _pointer(bucket), _pointer(limit), ctypes.c_int64(cost), ctypes.byref(clock),
            ctypes.c_uint64(step_ns), threads, ctypes.c_long(asks),
        )  # fmt: skip
        return int(admitted), int(clock.value)


class Table:
    """A table of devices in user space; ``sets`` and ``owners`` are the filter's maps as arrays."""

    def __init__(self, native: Native, sets: int, multipliers: Sequence[Sequence[int]]) -> None:
        self._library = native._library
        self.sets, self.owners, self.spread = np.zeros(sets, SET), np.zeros(sets, OWNERS), np.zeros((), SPREAD)
        self.spread["multipliers"], self.spread["shift"] = multipliers, 65 - sets.bit_length()

    def take(self, raw_id: bytes, limit: npt.NDArray[np.void], now_ns: int) -> Verdict:
        """Take one frame of a device."""
        self._use()
        return Verdict(
            self._library.klais_test_take_device(
                _pointer(self.spread), raw_id, _pointer(limit), ctypes.c_uint64(now_ns)
            )
        )

    def rush(
        self, ids: npt.NDArray[np.uint8], limit: npt.NDArray[np.void], start_ns: int, rounds: int, threads: int
    ) -> npt.NDArray[np.int64]:
        """Run threads that take the same devices (uint8 [n, 16]) in the same order; return admitted frames of each."""
        self._use()
        admitted, clock = np.zeros(len(ids), np.int64), ctypes.c_uint64(start_ns)
        failed = self._library.klais_test_rush(
            _pointer(self.spread), _pointer(ids), _pointer(limit), ctypes.byref(clock), ctypes.c_long(len(ids)),
            ctypes.c_long(rounds), threads, _pointer(admitted),
        )  # fmt: skip
        assert not failed
        return admitted

    def _use(self) -> None:
        self._library.klais_test_table(_pointer(self.sets), _pointer(self.owners), len(self.sets))


def bucket(credit_units: int = 0, last_ns: int = 0) -> npt.NDArray[np.void]:
    """A ``struct klais_bucket``."""
    out = np.zeros((), BUCKET)
    out["credit_units"], out["last_ns"] = credit_units, last_ns
    return out


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
