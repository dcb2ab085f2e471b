"""A thundering herd: when each device reconnects, and the frames that it sends (pure; numpy only).

Arrivals follow 3GPP TR 37.868, section 6.1.1: traffic model 1 spreads N devices evenly over 60 s, model 2 with
Beta(3, 4) over 10 s, like after a power cut. Each device sends the frames that it has buffered. A client with back-off
waits before its first frame and between frames, with full jitter (uniform from 0 to a bound that doubles).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from klais.errors import ConfigError

Model = Literal["beta", "uniform"]
SPREAD_S: dict[str, float] = {"beta": 10.0, "uniform": 60.0}
BETA = (3.0, 4.0)
BACK_TO_BACK_S = 0.0005  # between two buffered frames of a device that does not back off
MAX_FRAMES = 20_000_000  # of the herd, and of the steady devices: all are planned before the first is sent
BACK_OFF_FIRST_S, BACK_OFF_MAX_S = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Herd:
    """``devices`` reconnect with ``model``, each with ``buffered`` frames, with or without ``back_off``.

    In addition, ``steady`` devices send ``steady_per_s`` frames/s in total, from ``before_s`` before the storm to
    ``after_s`` after the last arrival. Their latency shows when the system has recovered.
    """

    devices: int
    model: Model = "beta"
    buffered: int = 5
    back_off: bool = False
    seed: int = 1
    steady: int = 1000
    steady_per_s: float = 2000.0
    before_s: float = 8.0
    after_s: float = 15.0

    def problems(self) -> list[str]:
        """Messages about values out of range; empty if the herd is valid."""
        found = []
        for name, highest in (("devices", 5_000_000), ("buffered", 10_000), ("steady", 1_000_000)):
            if not 1 <= getattr(self, name) <= highest:
                found.append(f"{name} is {getattr(self, name)}, must be 1 to {highest:,}")
        if self.devices * self.buffered > MAX_FRAMES:
            found.append(f"{self.devices * self.buffered:,} frames are more than {MAX_FRAMES:,}")
        for name in ("steady_per_s", "before_s", "after_s"):
            if not 0 < getattr(self, name) <= 1e6:
                found.append(f"{name} is {getattr(self, name)}, must be above 0 and at most 1,000,000")
        return found


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Frames in due order: ``due_s`` float64, ``device`` int32, ``sequence`` uint32 [n] each.

    Devices below ``herd`` belong to the herd, the others are steady. The storm is from ``storm_s`` to ``end_s``.
    """

    due_s: npt.NDArray[np.float64]
    device: npt.NDArray[np.int32]
    sequence: npt.NDArray[np.uint32]
    herd: int
    storm_s: float
    end_s: float


def arrivals(herd: Herd) -> Arrivals:
    """All frames of a run.

    Raises
    ------
    klais.errors.ConfigError
        If the herd is not valid; lists all problems.

    Examples
    --------
    >>> run = arrivals(Herd(100, buffered=2))
    >>> int((run.device < run.herd).sum()), bool((np.diff(run.due_s) >= 0).all())
    (200, True)
    """
    if problems := herd.problems():
        raise ConfigError("; ".join(problems))
    rng = np.random.default_rng(herd.seed)
    storm_s = herd.before_s
    start = rng.beta(*BETA, herd.devices) if herd.model == "beta" else rng.random(herd.devices)
    due = storm_s + start[:, None] * SPREAD_S[herd.model] + _offsets(herd, rng)
    end_s = float(due.max())
    whole_s = end_s + herd.after_s
    steady_n = int(whole_s * herd.steady_per_s)
    if steady_n > MAX_FRAMES:
        raise ConfigError(
            f"steady_per_s is {herd.steady_per_s:g}: {steady_n:,} frames in {whole_s:.0f} s, at most {MAX_FRAMES:,}"
        )
    steady_due = np.arange(steady_n) / herd.steady_per_s
    turn = np.arange(steady_n)
    due_s = np.concatenate((due.ravel(), steady_due))
    device = np.concatenate((np.repeat(np.arange(herd.devices), herd.buffered), herd.devices + turn % herd.steady))
    sequence = np.concatenate((np.tile(np.arange(herd.buffered), herd.devices), turn // herd.steady))
    order = np.argsort(due_s, kind="stable")
    return Arrivals(
        due_s[order], device[order].astype(np.int32), sequence[order].astype(np.uint32), herd.devices, storm_s, end_s
    )


def _offsets(herd: Herd, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Delay of each buffered frame after the return of its device (s), float64 [devices, buffered], rows ascending."""
    if not herd.back_off:
        return np.broadcast_to(np.arange(herd.buffered) * BACK_TO_BACK_S, (herd.devices, herd.buffered))
    bound = np.minimum(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** np.arange(herd.buffered))
    waits = rng.random((herd.devices, herd.buffered)) * bound
    waits[:, 0] = rng.random(herd.devices) * BACK_OFF_MAX_S
    return np.cumsum(waits, axis=1)


def recovery(
    landed_s: npt.NDArray[np.float64],
    took_s: npt.NDArray[np.float64],
    storm_s: float,
    end_s: float,
    settle_s: float = 2.0,
) -> dict[str, float | None]:
    """Time from the last arrival until the 99th percentile of the latency was back below twice its previous value.

    Parameters
    ----------
    landed_s, took_s : float64 [n]
        When each frame landed, on the clock of ``storm_s`` and ``end_s``, and its latency (s).
    storm_s, end_s : float
        First and last arrival of the herd.
    settle_s : float
        Time to skip at the start.

    Returns
    -------
    dict
        ``recovery_s`` (None = not within the run), ``p99_before_ms``, ``p99_storm_ms``, ``max_ms``.

    Notes
    -----
    It uses windows of one second over the landed frames, moved by 0.1 s. The system has recovered at the start of the
    first good window.
    """
    before = took_s[(landed_s >= settle_s) & (landed_s < storm_s)]
    storm = took_s[(landed_s >= storm_s) & (landed_s < end_s)]
    out: dict[str, float | None] = {"recovery_s": None, "p99_before_ms": None, "p99_storm_ms": None, "max_ms": None}
    if not len(before):
        return out
    limit = 2.0 * float(np.percentile(before, 99))
    out["p50_before_ms"] = float(np.median(before)) * 1e3
    out["p99_before_ms"] = limit / 2.0 * 1e3
    out["p99_storm_ms"] = float(np.percentile(storm, 99)) * 1e3 if len(storm) else None
    out["max_ms"] = float(took_s.max()) * 1e3
    order = np.argsort(landed_s, kind="stable")
    at, took = landed_s[order], took_s[order]
    last = float(at[-1])
    start = end_s
    while start + 1.0 <= last + 0.1:
        low, high = np.searchsorted(at, (start, start + 1.0))
        if high > low and float(np.percentile(took[low:high], 99)) <= limit:
            out["recovery_s"] = start - end_s
            return out
        start += 0.1
    return out


def in_order(device: npt.NDArray[np.int64], sequence: npt.NDArray[np.int64]) -> bool:
    """Whether each device's sequence is ascending in the order of the rows."""
    order = np.argsort(device, kind="stable")
    same = np.diff(device[order]) == 0
    return bool((np.diff(sequence[order])[same] > 0).all())


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """The verdict as a text table."""
    width = max(len(name) for name in verdict)
    return [f"{name.replace('_', ' '):{width}}  {_text(value)}" for name, value in verdict.items()]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(count)}" for name, count in value.items()) or "none"
    if value is None:
        return "not within the run"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.2f}"
