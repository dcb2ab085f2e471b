"""Signed frames for tests: batches through the kernel, and the clients in C compiled by ``cc``."""

import ctypes
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.auth import RESULTS, KeyColumns, Mode, verify
from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.frame import check_headers
from klais.core.wire.signing import device_key, master_key, sign_frame
from tests.support.needs import need_missing

ROOT = Path(__file__).parents[2]
VECTORS: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "auth.json").read_text())
SECRET = bytes(range(32))
MASTERS = {generation: master_key(SECRET, generation) for generation in range(4)}
WHOLE = 1 << 20


def signed(device_id: str, sequence: int, payload: bytes, epoch: int = 1, generation: int = 1) -> bytes:
    """A frame signed under the key that ``MASTERS`` gives the device."""
    key = device_key(MASTERS[generation], device_id.encode())
    return sign_frame(encode_frame(device_id, sequence, payload), key, epoch, generation)


def vector_payload(vector: dict[str, Any]) -> bytes:
    """Payload of a vector; long payloads are generated, not stored in the file."""
    text = vector["payload"]
    return text.encode() if text is not None else b'{"p":"' + b"x" * (vector["payload_bytes"] - 8) + b'"}'


class Judged:
    """Results of the edge's kernels for frames, column by column."""

    def __init__(
        self,
        frames: list[bytes],
        keys: KeyColumns,
        mode: Mode = Mode.REQUIRE,
        exempt: list[bool] | None = None,
        latest: int = 1 << 32,
        head_size: int = WHOLE,
        max_length: int = 65_507,
    ) -> None:
        n = len(frames)
        self.lengths = np.array([len(frame) for frame in frames], np.int64)
        heads, tails = [frame[:head_size] for frame in frames], [frame[head_size:] for frame in frames]
        head, starts = _laid_out(heads)
        tail, tail_starts = _laid_out(tails)
        self.reason, self.id_size = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        self.ids, self.sequence, self.epoch = (
            np.zeros((n, 2), np.uint64),
            np.zeros(n, np.uint32),
            np.zeros(n, np.uint32),
        )
        self.counts = np.zeros((5, RESULTS), np.int64)
        head.flags.writeable = tail.flags.writeable = False  # as the memory of the ring is
        room, free = np.zeros(65_536, np.uint8), np.array(exempt or [False] * n, np.uint8)
        check_headers(head, starts, self.lengths, self.reason, self.ids, self.sequence, self.id_size)
        verify(
            head, starts, head_size, tail, tail_starts, self.lengths, room, max_length, *keys, int(mode), free, latest,
            self.reason, self.ids, self.sequence, self.id_size, self.epoch, self.counts,
        )  # fmt: skip

    def labels(self) -> list[str]:
        """Reason of each frame."""
        return [Reason(int(reason)).label for reason in self.reason]


def _laid_out(pieces: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    return np.frombuffer(b"".join(pieces) + bytes(8), np.uint8).copy(), np.cumsum(sizes) - sizes


class Clients:
    """``examples/klais_client.c`` and ``examples/klais_mcu.c``, compiled with strict warnings."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("cc") is None:
            need_missing("kernel", "no C compiler (cc)")
        self.library, self.mcu = (self._compiled(folder, name) for name in ("klais_client", "klais_mcu"))
        self.mcu.klais_next_frame.restype = ctypes.c_uint16

    @staticmethod
    def _compiled(folder: Path, name: str) -> ctypes.CDLL:
        strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
        files = ["-DKLAIS_NO_MAIN", "-shared", "-fPIC", "-o", str(folder / f"{name}.so")]
        done = subprocess.run(
            ["cc", *strict, *files, str(ROOT / "examples" / f"{name}.c")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(folder / f"{name}.so"))

    def sign(self, frame: bytes, key: bytes, epoch: int, generation: int) -> bytes:
        """``klais_sign`` on a plain frame."""
        memory = ctypes.create_string_buffer(frame, len(frame) + 13)
        self.library.klais_sign.restype = ctypes.c_size_t
        size = self.library.klais_sign(memory, ctypes.c_size_t(len(frame)), ctypes.c_uint32(epoch), generation, key)
        return memory.raw[:size]

    def mcu_frame(
        self, key: bytes, device_id: bytes, sequence: int, payload: bytes, epoch: int, generation: int
    ) -> bytes:
        """Call ``klais_next_frame``; empty if it refuses the payload."""
        device = _Device((ctypes.c_uint8 * 16)(*key), (ctypes.c_uint8 * 16)(*device_id), generation, epoch, sequence)
        size = self.mcu.klais_next_frame(ctypes.byref(device), payload, ctypes.c_uint16(len(payload)))
        assert device.sequence == (sequence + (size > 0)) & 0xFFFFFFFF
        return bytes(device.frame[:size])


class _Device(ctypes.Structure):
    _fields_ = [
        ("key", ctypes.c_uint8 * 16),
        ("id", ctypes.c_uint8 * 16),
        ("generation", ctypes.c_uint8),
        ("epoch", ctypes.c_uint32),
        ("sequence", ctypes.c_uint32),
        ("frame", ctypes.c_uint8 * 163),
    ]
