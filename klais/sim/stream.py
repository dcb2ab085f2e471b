"""The endless stream of simulated frames, chunk by chunk, in send order. No clock, no socket.

Chunks have a fixed size and all randomness has one state, so the stream depends only on the options, not on pacing.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import HEADER_SIZE, ID_SIZE
from klais.errors import ConfigError
from klais.sim import kernels
from klais.sim.ids import listed_ids, model_ids
from klais.sim.sign import Signer, Signing
from klais.sim.traffic import Schedule, Series, SteadyRate

CHUNK_FRAMES = 4096  # built in about 1 ms, well below the tolerance of a pacing slice


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Contents of the stream, without time and destination.

    ``devices`` count (1 to 10,000,000); ``id_prefix`` text before each device's number; ``first_sequence`` of each
    device (0 to 2^32-1); ``day_s`` length of the modelled day in seconds. Shares (0 to 1): ``malformed``, ``reboot``,
    ``spikes`` of the frames, ``reorder`` = frames overtaken by their successor (at most 0.5), ``duplicates`` = good
    frames sent again. ``signing``: sign the frames, see :class:`klais.sim.sign.Signing`.
    """

    devices: int = 1000
    seed: int = 0
    malformed: float = 0.0
    duplicates: float = 0.0
    reorder: float = 0.0
    reboot: float = 0.0
    spikes: float = 0.0
    id_prefix: str = "sim-"
    first_sequence: int = 0
    day_s: float = 86_400.0
    series: Series | None = field(default=None, repr=False, compare=False)
    signing: Signing | None = field(default=None, repr=False, compare=False)

    def problems(self) -> list[str]:
        """Messages about values out of range; empty if the options are valid."""
        found = []
        for name in ("malformed", "duplicates", "reorder", "reboot", "spikes"):
            top = 0.5 if name == "reorder" else 1.0
            if not 0 <= getattr(self, name) <= top:
                found.append(f"{name} is {getattr(self, name)}, must be a share from 0 to {top:g}")
        if not found and self.malformed + self.reboot + self.spikes + 2 * self.reorder > 1 + 1e-9:
            found.append("malformed + reboot + spikes + 2 x reorder is above 1")
        if not 1 <= self.devices <= 10_000_000:
            found.append(f"devices is {self.devices}, must be 1 to 10,000,000")
        elif len(self.id_prefix.encode()) + len(str(self.devices - 1)) > ID_SIZE:
            found.append(f"id prefix {self.id_prefix!r} and a device's number do not fit {ID_SIZE} bytes")
        if "\0" in self.id_prefix:
            found.append("id prefix has a NUL character")
        if not 0 <= self.first_sequence < 1 << 32:
            found.append(f"first sequence is {self.first_sequence}, must be 0 to 2^32-1")
        if not self.day_s > 0:
            found.append(f"day length is {self.day_s} s, must be above 0")
        if self.series is not None and self.spikes:
            found.append("spikes need modelled values: not together with a series")
        if self.signing is not None and self.malformed:
            found.append("malformed frames are not signed: not together with authenticated frames")
        if self.signing is not None and not 0 <= self.signing.forged <= 1:
            found.append(f"forged is {self.signing.forged}, must be a share from 0 to 1")
        return found

    def public(self) -> dict[str, Any]:
        """The options for a manifest and a summary (for a series and keys, only whether they are used)."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("series", "signing")}
        forged = {} if self.signing is None else {"forged": self.signing.forged}
        return plain | forged | {"series": self.series is not None, "signed": self.signing is not None}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames in send order: frame i is ``buf[starts[i] : starts[i] + lengths[i]]``; a repeat refers to the same bytes.

    ``starts``, ``lengths`` int64 [n]; ``device`` int32, ``sequence`` uint32, ``hashes`` uint64, ``kind`` uint8 [n]
    each. The next chunk reuses ``buf``.
    """

    buf: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    device: npt.NDArray[np.int32]
    sequence: npt.NDArray[np.uint32]
    hashes: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint8]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.starts)

    def frame(self, i: int) -> bytes:
        """The bytes of frame ``i``."""
        start = int(self.starts[i])
        return self.buf[start : start + int(self.lengths[i])].tobytes()


class FrameStream:
    """The frames of simulated devices, deterministic in ``options`` and ``schedule``.

    Parameters
    ----------
    options : StreamOptions
    schedule : Schedule
        Provides modelled time (the daily sine); default 1,000 frames/s.

    Raises
    ------
    klais.errors.ConfigError
        If options are invalid; lists all problems.

    Examples
    --------
    >>> stream = FrameStream(StreamOptions(devices=2, seed=1))
    >>> stream.next_chunk().frame(1)[:22].hex()
    'aa5573696d2d30303030303100000000000000000000'
    """

    def __init__(self, options: StreamOptions, schedule: Schedule | None = None) -> None:
        problems = options.problems()
        if problems:
            raise ConfigError("; ".join(problems))
        self.options = options
        self.schedule = schedule or SteadyRate(1000.0)
        series = options.series
        self.devices = len(series.ids) if series else options.devices
        self.ids = listed_ids(series.ids) if series else model_ids(options.id_prefix, options.devices)
        self._rng = np.array([options.seed & (1 << 64) - 1], np.uint64)
        self._cycle = np.zeros(2, np.int64)
        self._stride = _coprime(self.devices)
        self._shares = _thresholds(options)
        self._next_sequence = np.full(self.devices, options.first_sequence, np.uint32)
        self._model = _model(self.devices, options.seed)
        empty = np.zeros(0, np.int64)
        self._texts = series.payloads if series else np.zeros(0, np.uint8)
        self._text_starts = series.starts if series else empty
        self._text_first = series.first if series else empty
        self._cursor = np.zeros(self.devices, np.int64) if series else empty
        longest = 0 if series is None else int(np.diff(series.starts).max()) + HEADER_SIZE
        self._signer = None if options.signing is None else Signer(options.signing, self.ids, options.seed)
        self._gap = 0 if self._signer is None else self._signer.gap
        self._buf = np.zeros(CHUNK_FRAMES * (max(kernels.MAX_BUILT_BYTES, longest) + self._gap), np.uint8)
        self._built = 0

    def device_id(self, device: int) -> bytes:
        """Id of a device, without padding."""
        return bytes(self.ids[device]).rstrip(b"\0")

    def next_chunk(self) -> Chunk:
        """Build the next CHUNK_FRAMES frames (and the repeats among them); the buffer of the last chunk is reused."""
        n = CHUNK_FRAMES
        device, sequence, kind = np.zeros(n, np.int32), np.zeros(n, np.uint32), np.zeros(n, np.uint8)
        starts, lengths, hashes = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.uint64)
        kernels.draw(
            self._rng,
            self._cycle,
            self.devices,
            self._stride,
            self._shares,
            self._next_sequence,
            device,
            sequence,
            kind,
        )
        begin, end = self.schedule.time_of(self._built), self.schedule.time_of(self._built + n)
        turn = 2 * math.pi / self.options.day_s
        self._built += n
        kernels.build(
            self._buf, self.ids, device, sequence, kind, self._model, begin * turn, (end - begin) / n * turn,
            self._texts, self._text_starts, self._text_first, self._cursor, self._rng, self._gap, starts, lengths,
        )  # fmt: skip
        kernels.fnv1a64_column(self._buf, starts, lengths, hashes)
        if self._signer is not None:
            self._signer.sign(self._buf, starts, lengths, device, kind, hashes)
        order, sent_kind = np.zeros(2 * n, np.int32), np.zeros(2 * n, np.uint8)
        again = np.zeros(n + kernels.AGAIN_SLACK, np.int32)
        places = kernels.plan_order(self._rng, self._shares, kind, again, order, sent_kind)
        order = order[:places]
        return Chunk(
            self._buf, starts[order], lengths[order], device[order], sequence[order], hashes[order], sent_kind[:places]
        )


def _coprime(devices: int) -> int:
    """A step near the golden section of ``devices`` and coprime to it: its multiples scatter evenly and reach each
    device once."""
    step = max(1, round(devices * 0.6180339887))
    while math.gcd(step, devices) != 1:
        step += 1
    return step


def _thresholds(options: StreamOptions) -> npt.NDArray[np.uint64]:
    """Cumulative 32-bit thresholds for one draw per frame. The overtaking frame is not drawn, hence the division."""
    drawn = 1 - options.reorder
    running = np.cumsum([options.malformed, options.reboot, options.spikes, options.reorder]) / drawn
    again = np.array([options.duplicates])
    shares: npt.NDArray[np.float64] = np.minimum(np.concatenate((running, again)), 1.0)
    return np.rint(shares * 2**32).astype(np.uint64)


def _model(devices: int, seed: int) -> npt.NDArray[np.float64]:
    """Each device's own level and phase, float64 [devices, MODEL_COLUMNS]."""
    uniform = np.random.Generator(np.random.PCG64(seed)).random((devices, kernels.MODEL_COLUMNS))
    low = np.array([15.0, 40.0, 3.4, 0.0, 0.0, 0.0])
    span = np.array([10.0, 20.0, 0.7, 2 * math.pi, 0.0, 0.0])
    model: npt.NDArray[np.float64] = low + span * uniform
    return model
