"""The edge's part of authenticated frames: keys from the settings, and the check of each batch before it is sorted."""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from klais.config.auth_keys import read_key_ring
from klais.config.settings import SettingsFields
from klais.core.dam.overrides import PREFIX, begin_with
from klais.core.wire.auth import MAX_FRAME_BYTES, NO_GENERATION, RESULTS, Mode, Result, key_columns, verify
from klais.core.wire.signing import GENERATIONS
from klais.edge.sources.base import Frames

NO_LIMIT = 1 << 32  # above every epoch


def _wall_s() -> float:
    return time.time()


class Authenticator:
    """Checks the tags of frames with the keys named in the settings. Belongs to the thread of the spine.

    Parameters
    ----------
    settings : SettingsFields
        Mode (not ``off``), files of keys, exemptions.
    capacity : int
        Maximum number of frames in a batch.
    wall_s : callable
        This host's clock, s since the epoch.

    Attributes
    ----------
    counts : int64 [5, 8]
        Frames by generation (the last row: unsigned) and :class:`klais.core.wire.auth.Result`.

    Raises
    ------
    ConfigError
        If the keys cannot be read.
    """

    def __init__(self, settings: SettingsFields, capacity: int, wall_s: Callable[[], float] = _wall_s) -> None:
        self._wall_s = wall_s
        self.counts = np.zeros((GENERATIONS + 1, RESULTS), np.int64)
        self._room = np.zeros(MAX_FRAME_BYTES, np.uint8)
        self._epochs = np.zeros(capacity, np.uint32)
        self._none_exempt = np.zeros(capacity, np.uint8)
        self.configure(settings)

    def configure(self, settings: SettingsFields) -> None:
        """Read the keys again; if they cannot be read (ConfigError), the old ones stay in force."""
        ring = read_key_ring(settings)
        self._keys = key_columns(dict(ring.masters), dict(ring.own))
        self._mode = Mode[settings.auth.upper()]
        self._skew_s = settings.auth_max_skew_s
        prefixes = [prefix.encode() for prefix in settings.auth_exempt.split(",") if prefix]
        self._exempt = np.array(prefixes, PREFIX)
        self.generations = sorted(ring.masters)

    def check(
        self,
        source: Frames,
        n: int,
        max_length: int,
        reason: npt.NDArray[np.uint8],
        ids: npt.NDArray[np.uint64],
        sequence: npt.NDArray[np.uint32],
        id_size: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.uint32]:
        """Check n frames of ``source``, whose ``lengths`` are reduced by the trailer; see ``verify`` for the columns.

        Returns
        -------
        uint32 [n]
            Epoch of each frame with a valid tag, else 0; valid until the next call.
        """
        exempt = begin_with(ids, self._exempt) if len(self._exempt) else self._none_exempt[:n]
        latest = int(self._wall_s() + self._skew_s) if self._skew_s else NO_LIMIT
        epochs = self._epochs[:n]
        verify(
            source.head, source.starts[:n], source.head_size, source.tail, source.tail_starts[:n], source.lengths[:n],
            self._room, max_length, *self._keys, int(self._mode), exempt, latest,
            reason, ids, sequence, id_size, epochs, self.counts,
        )  # fmt: skip
        return epochs

    def frames(self) -> dict[tuple[str, str], int]:
        """Frames by label of their result and generation (empty: unsigned), including those with 0 that may occur."""
        out = {}
        for result in Result:
            unsigned = result >= Result.UNSIGNED
            rows = [NO_GENERATION] if unsigned else range(GENERATIONS)
            for row in rows:
                if (count := int(self.counts[row, result])) or unsigned or row in self.generations:
                    out[result.label, "" if unsigned else str(row)] = count
        return out


def authenticator(settings: SettingsFields, capacity: int) -> Authenticator | None:
    """The authenticator of an edge, None with ``KLAIS_AUTH=off``; see :class:`Authenticator`."""
    return None if settings.auth == "off" else Authenticator(settings, capacity)
