"""The manifest: all frames that a simulator sent, in send order, to compare them with the topics.

A file of one JSON line (options, device ids), then blocks, then one JSON line with totals. A block, little-endian::

    u32 count (> 0)  u64 base_ns (ns since the epoch)
    count x u32 device   count x u32 sequence   count x u64 hash   count x u8 kind   count x u32 sent_us

``device`` counts from 0 (its id: ``id_prefix`` and a number, or ``ids`` of the header); ``hash`` is 64-bit FNV-1a of
the whole frame; the header's ``kinds`` names ``kind``; a frame was sent at base_ns + 1000 x sent_us. After the last
block: u32 0 and the totals line. A file without it (the sender was killed) is read up to its last complete block.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import ID_SIZE
from klais.errors import KlaisError
from klais.sim.kinds import DUPLICATE, FORGED, MALFORMED, SPIKE, kind_label
from klais.sim.malformed import LAST as LAST_BAD
from klais.system import shallow_json

FORMAT = "klais-manifest-1"
MAX_DEVICES = 10_000_000  # as in `klais simulate`
MAX_SENT_US = 2**32 - 1
_BLOCK = Struct("<IQ")
_COLUMNS = (("device", "<u4"), ("sequence", "<u4"), ("hashes", "<u8"), ("kind", "u1"), ("sent_us", "<u4"))
_ROW_BYTES = sum(np.dtype(kind).itemsize for _, kind in _COLUMNS)


class ManifestError(KlaisError):
    """A manifest cannot be written, or a file is not a known manifest."""


class ManifestWriter:
    """Appends blocks to a manifest file; :meth:`close` adds the totals."""

    def __init__(self, path: str | Path, header: dict[str, Any]) -> None:
        numbers = (*range(DUPLICATE + 1), *range(MALFORMED, LAST_BAD + 1), FORGED)
        kinds = {str(kind): kind_label(kind) for kind in numbers}
        try:
            self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise ManifestError(f"cannot write the manifest {str(path)!r}: {error.strerror}") from error
        self._file.write(json.dumps({"format": FORMAT, **header, "kinds": kinds}).encode() + b"\n")

    def append(
        self,
        device: npt.NDArray[np.int32],
        sequence: npt.NDArray[np.uint32],
        hashes: npt.NDArray[np.uint64],
        kind: npt.NDArray[np.uint8],
        sent_at_ns: npt.NDArray[np.int64],
    ) -> None:
        """Add n frames in send order; ``sent_at_ns`` int64 [n] since the epoch."""
        begin = 0
        while begin < len(device):  # a block spans at most 71 minutes: a slow sender needs several
            base_ns = int(sent_at_ns[begin])
            sent_us = np.maximum(sent_at_ns[begin:] - base_ns, 0) // 1000
            late = np.flatnonzero(sent_us > MAX_SENT_US)
            n = int(late[0]) if len(late) else len(sent_us)
            own = (column[begin : begin + n] for column in (device, sequence, hashes, kind))
            columns: tuple[npt.NDArray[Any], ...] = (*own, sent_us[:n])
            parts = [column.astype(dtype).tobytes() for column, (_, dtype) in zip(columns, _COLUMNS, strict=True)]
            self._file.write(_BLOCK.pack(n, base_ns) + b"".join(parts))
            begin += n

    def close(self, totals: dict[str, Any]) -> None:
        """Write the totals and close the file."""
        self._file.write(b"\0\0\0\0" + json.dumps(totals).encode() + b"\n")
        self._file.close()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest read back. ``device``, ``sequence`` uint32, ``hashes`` uint64, ``kind`` uint8, ``sent_at_ns`` int64
    [n].

    ``totals`` is None if the sender was killed.
    """

    header: dict[str, Any]
    device: npt.NDArray[np.uint32]
    sequence: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint8]
    sent_at_ns: npt.NDArray[np.int64]
    totals: dict[str, Any] | None

    @property
    def count(self) -> int:
        """Frames sent, including repeats and malformed ones."""
        return len(self.device)

    @property
    def started_ms(self) -> int:
        """When the sender started, ms since the epoch.

        Raises
        ------
        ManifestError
            If the header has no such time.
        """
        started_ns = self.header.get("started_at_ns")
        if type(started_ns) is not int or not 0 <= started_ns < 1 << 63:
            raise ManifestError(f"the manifest is damaged: its started_at_ns is {started_ns!r:.80}, not 0 to 2^63 - 1")
        return started_ns // 1_000_000

    def ids(self) -> npt.NDArray[np.uint8]:
        """The devices' ids, uint8 [devices, 16] NUL-padded."""
        from klais.sim.ids import listed_ids, model_ids

        listed = self.header.get("ids")
        if listed:
            return listed_ids([name.encode() for name in listed])
        return model_ids(self.header["id_prefix"], self.header["devices"])

    def by_kind(self) -> dict[str, int]:
        """Frames of each kind."""
        counts = np.bincount(self.kind, minlength=SPIKE + 1)
        return {kind_label(int(kind)): int(counts[kind]) for kind in np.flatnonzero(counts)}


def _names_devices(header: dict[str, Any]) -> bool:
    """Whether a header determines the devices' ids."""
    ids = header.get("ids")
    if ids:
        return isinstance(ids, list) and all(isinstance(name, str) and len(name.encode()) <= ID_SIZE for name in ids)
    prefix, devices = header.get("id_prefix"), header.get("devices")
    if not isinstance(prefix, str) or type(devices) is not int or not 0 < devices <= MAX_DEVICES:
        return False
    return len(prefix.encode()) + len(str(devices - 1)) <= ID_SIZE


def _json(data: bytes) -> Any:
    """The value of a part, None if it is invalid."""
    try:
        return shallow_json.loads(data)
    except ValueError:
        return None


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest file.

    Raises
    ------
    ManifestError
        If it is not a manifest, or of another version.
    """
    data = Path(path).read_bytes()
    line, _, body = data.partition(b"\n")
    header = _json(line)
    if not isinstance(header, dict) or header.get("format") != FORMAT or not _names_devices(header):
        raise ManifestError(f"{str(path)!r} is not a {FORMAT} file")
    blocks: list[list[npt.NDArray[Any]]] = [[] for _ in _COLUMNS]
    bases: list[npt.NDArray[np.int64]] = []
    at, totals = 0, None
    while at + 4 <= len(body):
        count = int.from_bytes(body[at : at + 4], "little")
        if count == 0:
            totals = _json(body[at + 4 :])
            break  # None if it is truncated
        if at + _BLOCK.size + count * _ROW_BYTES > len(body):
            break  # truncated: the sender was killed while writing this block
        bases.append(np.full(count, _BLOCK.unpack_from(body, at)[1], np.int64))
        at += _BLOCK.size
        for parts, (_, dtype) in zip(blocks, _COLUMNS, strict=True):
            parts.append(np.frombuffer(body, dtype, count, at))
            at += count * np.dtype(dtype).itemsize
    columns = [np.concatenate([np.zeros(0, dtype), *parts]) for parts, (_, dtype) in zip(blocks, _COLUMNS, strict=True)]
    sent_at_ns = np.concatenate([np.zeros(0, np.int64), *bases]) + columns[4].astype(np.int64) * 1000
    devices = len(header.get("ids") or ()) or header["devices"]
    if len(columns[0]) and (highest := int(columns[0].max())) >= devices:
        raise ManifestError(f"{str(path)!r} is damaged: a frame is of device {highest}, there are {devices:,} from 0")
    return Manifest(header, columns[0], columns[1], columns[2], columns[3], sent_at_ns, totals)
