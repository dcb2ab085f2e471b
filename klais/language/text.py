"""A traffic window as a line of words, and the words of the small model that KLAIS trains (pure; numpy only).

Each of 24 features becomes one word: its letter and the number of its bin, as in ``b7``. Each word is a separate token,
so a window is 24 tokens long.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from klais.control.forecast import CLASSES, Window
from klais.traffic.features import NAMES, features_of

LETTERS = "abcdefghijklmnopqrstuvwx"
BINS = 10
# Feature, lowest and highest value; between them bins of even width. Shares use a square-root scale.
SCALES: dict[str, tuple[float, float]] = {
    "rate_3s": (-1.0, 2.4), "rate_5s": (-0.7, 1.7), "rate_10s": (-0.5, 1.0), "rate_high": (0.0, 3.0),
    "rate_low": (-2.5, 0.2), "rate_spread": (0.0, 0.8), "slope_3s": (-0.8, 0.8), "active_3s": (-1.2, 2.6),
    "active_10s": (-0.8, 1.6), "active_low": (-2.0, 0.1), "frames_a_device": (0.0, 4.0),
    "frames_a_device_change": (-1.5, 2.5), "evenness": (-3.0, 0.2), "evenness_change": (-2.0, 1.0),
    "top_share": (0.0, 0.9), "top_share_median": (0.0, 0.9), "size_3s": (-1.0, 1.0), "new_devices_3s": (0.0, 1.0),
    "malformed_3s": (0.0, 1.0), "duplicates_3s": (0.0, 1.0), "limited_3s": (0.0, 1.0), "resets_3s": (0.0, 1.0),
    "new_of_active": (0.0, 1.2), "resets_of_active": (0.0, 1.2),
}  # fmt: skip
SHARES = ("new_devices", "malformed", "duplicates", "limited", "resets", "new_of", "resets_of")
ROOTS = {name for name in SCALES if name.rsplit("_", 1)[0] in SHARES}
_AT = [NAMES.index(name) for name in SCALES]
_LOW = np.array([low for low, _ in SCALES.values()])
_HIGH = np.array([high for _, high in SCALES.values()])
_ROOT = np.array([name in ROOTS for name in SCALES])

ASK = "?"
ANSWER_BEGINS, ANSWER_ENDS = '{"class":"', '"}'
GRAMMAR = 'root ::= "{\\"class\\":\\"" (' + " | ".join(f'"{name}"' for name in CLASSES) + ') "\\"}"'


def bins_of(x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Bin of each of the 24 features (int64 [k, 24], 0 to 9) from rows of :func:`klais.traffic.features.features`."""
    values = x[:, _AT].astype(np.float64)
    values = np.where(_ROOT, np.sqrt(np.maximum(values, 0.0)), values)
    share = (values - _LOW) / (_HIGH - _LOW)
    bins: npt.NDArray[np.int64] = np.clip((share * BINS).astype(np.int64), 0, BINS - 1)
    return bins


def words_of(bins: npt.NDArray[np.int64]) -> str:
    """The words of one row of bins.

    Examples
    --------
    >>> words_of(np.arange(24) % 10)[:8]
    'a0b1c2d3'
    """
    return "".join(f"{LETTERS[at]}{bin_}" for at, bin_ in enumerate(bins.tolist()))


def prompt_of(window: Window) -> str:
    """The prompt for one window."""
    return words_of(bins_of(features_of(window))[0]) + ASK


def window_words() -> list[str]:
    """All words that a window can have."""
    return [f"{LETTERS[at]}{bin_}" for at in range(len(SCALES)) for bin_ in range(BINS)]


def class_words() -> list[str]:
    """The words of the answer."""
    return [ANSWER_BEGINS, *CLASSES, ANSWER_ENDS]
