"""Computes the features of a model from a window of per-second rows: ratios, shares and trends (pure; numpy only).

Nearly all are ratios to the window's own median, so that a model trained at 1,000 frames/s works at 100,000.
"""

import numpy as np
import numpy.typing as npt

from klais.control.forecast import FEATURES, SMALL_RATE, WINDOW_S, Window

COLUMN = {name: at for at, name in enumerate(FEATURES)}
RECENT = (1, 3, 5, 10, 20)  # s over which the present is averaged
SURPRISE = (1, 2, 4)  # s whose excess is compared with the noise of the window
BEFORE_S = 5  # the noise of a window is that of its rows before these last ones
SLACK, SUM_S, MAX_SURPRISE = 0.5, 15, 100.0  # Page's sum: what a second must exceed, over how many seconds; a bound
SHARES = (
    "new_devices",
    "malformed",
    "duplicates",
    "limited",
    "resets",
    "dropped",
)  # as shares of the frames of the same seconds

NAMES = (
    *(f"rate_{n}s" for n in RECENT),
    "rate_median", "rate_high", "rate_low", "rate_spread", "slope_3s", "slope_8s", "lift", "dip",
    "active_1s", "active_3s", "active_10s", "active_low", "active_median", "active_lift",
    "frames_a_device", "frames_a_device_change", "evenness", "evenness_change",
    "entropy_change", "top_share", "top_share_high", "top_share_median",
    "size_3s", "size_cv", "size_cv_change",
    *(f"{name}_3s" for name in SHARES),
    *(f"{name}_10s" for name in SHARES),
    *(f"{name}_median" for name in SHARES),
    "new_of_active", "resets_of_active",
    *(f"surprise_{n}s" for n in SURPRISE), *(f"active_surprise_{n}s" for n in SURPRISE),
    "rate_sum", "active_sum", "growth_1s", "growth_2s", "active_growth_1s", "frames_a_returned",
)  # fmt: skip

Rows = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]


def padded(window: Window) -> Window:
    """The window with 60 rows: a shorter one is padded with its first row."""
    missing = WINDOW_S - len(window)
    return np.concatenate((np.repeat(window[:1], missing, axis=0), window)) if missing > 0 else window[-WINDOW_S:]


def clean(window: Window) -> Window:
    """The window with finite numbers, 0 to 1e12."""
    finite: Window = np.clip(np.nan_to_num(window, nan=0.0, posinf=1e12, neginf=0.0), 0.0, 1e12)
    return finite


def features_of(window: Window) -> Features:
    """Features of one window (float64 [10 to 60, columns]), float32 [1, len(NAMES)]."""
    return features(padded(clean(window))[None])


def features(windows: npt.NDArray[np.float64]) -> Features:
    """Features of k windows (float64 [k, 60, columns]), float32 [k, len(NAMES)], in the order of :data:`NAMES`."""
    columns = {name: np.maximum(windows[:, :, at], 0.0) for name, at in COLUMN.items()}
    medians = np.median(windows, axis=1)
    median = {name: np.maximum(medians[:, at], 0.0) for name, at in COLUMN.items()}
    parts = [*_rate(columns["rate"], median["rate"]), *_active(columns, median), *_spread(columns, median)]
    parts += [*_sizes(columns, median), *_shares(columns), *_onset(columns["rate"], columns["active"])]
    return np.nan_to_num(np.stack(parts, axis=1), nan=0.0, posinf=1e6, neginf=-1e6).astype(np.float32)


def _last(values: Rows, seconds: int) -> Rows:
    mean: Rows = values[:, -seconds:].mean(axis=1)
    return mean


def _log_ratio(a: Rows, b: Rows, minimum: float | Rows) -> Rows:
    ratio: Rows = np.log((a + minimum) / (b + minimum))
    return ratio


def _slope(values: Rows, seconds: int) -> Rows:
    at = np.arange(seconds) - (seconds - 1) / 2
    slope: Rows = values[:, -seconds:] @ at / (at @ at)
    return slope


def _rate(rate: Rows, median: Rows) -> list[Rows]:
    level = np.maximum(median, SMALL_RATE)
    log_rate = np.log(rate + 0.05 * level[:, None] + 1.0)
    around = np.abs(log_rate[:, 1:-1] - (log_rate[:, :-2] + log_rate[:, 2:]) / 2)
    before = rate[:, -11:-1].mean(axis=1)
    return [
        *(_log_ratio(_last(rate, n), level, 1.0) for n in RECENT),
        np.log(median + 1.0),
        _log_ratio(rate.max(axis=1), level, 1.0),
        _log_ratio(rate[:, -30:].min(axis=1), level, 0.05 * level),
        np.median(around, axis=1),
        _slope(log_rate, 3),
        _slope(log_rate, 8),
        _log_ratio(rate[:, -1], before, 0.05 * level),
        _log_ratio(rate[:, -30:-3].mean(axis=1), rate[:, :30].mean(axis=1), 0.05 * level),
    ]


def _active(c: dict[str, Rows], median: dict[str, Rows]) -> list[Rows]:
    active = c["active"]
    return [
        *(_log_ratio(_last(active, n), median["active"], 3.0) for n in (1, 3, 10)),
        _log_ratio(active[:, -30:].min(axis=1), median["active"], 3.0),
        np.log(median["active"] + 1.0),
        _log_ratio(active[:, -1], active[:, -11:-1].mean(axis=1), 3.0),
    ]


def _spread(c: dict[str, Rows], median: dict[str, Rows]) -> list[Rows]:
    each = _log_ratio(_last(c["rate"], 3), _last(c["active"], 3), 1.0)
    even = _last(c["entropy"], 3) - np.log(_last(c["active"], 3) + 1.0)
    usual = median["entropy"] - np.log(median["active"] + 1.0)
    top = c["top_share"]
    return [
        each,
        each - _log_ratio(median["rate"], median["active"], 1.0),
        even,
        even - usual,
        _last(c["entropy"], 3) - median["entropy"],
        _last(top, 3),
        top[:, -10:].max(axis=1),
        median["top_share"],
    ]


def _sizes(c: dict[str, Rows], median: dict[str, Rows]) -> list[Rows]:
    cv = _last(c["size_cv"], 3)
    return [_log_ratio(_last(c["payload_bytes"], 3), median["payload_bytes"], 10.0), cv, cv - median["size_cv"]]


def _shares(c: dict[str, Rows]) -> list[Rows]:
    rate = c["rate"]
    out = [c[name][:, -n:].sum(axis=1) / (rate[:, -n:].sum(axis=1) + 1.0) for n in (3, 10) for name in SHARES]
    out += [np.median(c[name][:, ::3] / (rate[:, ::3] + 1.0), axis=1) for name in SHARES]
    active = c["active"][:, -5:].sum(axis=1) + 1.0
    return [*out, *(np.minimum(c[name][:, -5:].sum(axis=1) / active, 10.0) for name in ("new_devices", "resets"))]


def _onset(rate: Rows, active: Rows) -> list[Rows]:
    """How surely and how fast frames and devices rise, in units of the window's own noise: a herd's first seconds.

    Arrivals of a Beta(3,4) herd grow with the square of the time, those of a step do not grow.
    """
    z_rate, extra, noise = _excess(rate)
    z_active, more, active_noise = _excess(active)
    return [
        *(_mean_surprise(z_rate, n) for n in SURPRISE),
        *(_mean_surprise(z_active, n) for n in SURPRISE),
        _page(z_rate),
        _page(z_active),
        _log_ratio(np.maximum(extra[:, -1], 0.0), np.maximum(extra[:, -2], 0.0), noise),
        _log_ratio(np.maximum(extra[:, -2], 0.0), np.maximum(extra[:, -3], 0.0), noise),
        _log_ratio(np.maximum(more[:, -1], 0.0), np.maximum(more[:, -2], 0.0), active_noise),
        _log_ratio(np.maximum(_last(extra, 3), 0.0), np.maximum(_last(more, 3), 0.0), noise + active_noise),
    ]


def _excess(values: Rows) -> tuple[Rows, Rows, Rows]:
    """Last seconds less the usual level, in units of the noise [k, SUM_S] and as they are [k, SUM_S]; the noise [k]."""
    usual = np.median(values[:, :-BEFORE_S], axis=1)
    spread = 1.4826 * np.median(np.abs(values[:, :-BEFORE_S] - usual[:, None]), axis=1)
    noise: Rows = np.maximum(spread, np.sqrt(usual + 1.0))  # never below that of independent arrivals
    extra = values[:, -SUM_S:] - usual[:, None]
    return extra / noise[:, None], extra, noise


def _mean_surprise(z: Rows, seconds: int) -> Rows:
    mean: Rows = np.clip(_last(z, seconds) * np.sqrt(seconds), -MAX_SURPRISE, MAX_SURPRISE)
    return mean


def _page(z: Rows) -> Rows:
    """Page's cumulative sum at the last second: the largest sum of the newest seconds, each less a slack."""
    sums = np.cumsum(z[:, ::-1] - SLACK, axis=1)
    page: Rows = np.clip(sums.max(axis=1), 0.0, 10.0 * MAX_SURPRISE)
    return page
