"""The signatures of a simulated stream: signed frames, their epochs, and forged ones."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from klais.core.wire.auth import sign
from klais.core.wire.signing import TRAILER_SIZE
from klais.sim.kernels import epochs_of, fnv1a64_column
from klais.sim.kinds import FORGED, GOOD

SIGN, FORGE = 1, 2
FORGE_SEED = 0x666F726765  # seed for the choice of forged frames, so that the frames themselves stay the same


@dataclass(frozen=True, slots=True)
class Signing:
    """Parameters of signatures: K_master of a ``generation``, the first ``epoch`` of every device, and the share of
    ``forged`` frames (0 to 1), in the names of the same devices."""

    master: bytes = field(repr=False)
    generation: int
    epoch: int
    forged: float = 0.0


class Signer:
    """Signs the frames of one stream, chunk by chunk."""

    gap = TRAILER_SIZE

    def __init__(self, signing: Signing, ids: npt.NDArray[np.uint8], seed: int) -> None:
        self._signing = signing
        self._words = np.ascontiguousarray(ids).view("<u8").astype(np.uint64)
        words = np.frombuffer(signing.master, "<u8").astype(np.uint64)
        self._key = words[:1].copy(), words[1:].copy()
        self._epoch = np.full(len(ids), signing.epoch, np.uint32)
        self._random = np.random.Generator(np.random.PCG64(seed ^ FORGE_SEED))

    def sign(
        self,
        buf: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        device: npt.NDArray[np.int32],
        kind: npt.NDArray[np.uint8],
        hashes: npt.NDArray[np.uint64],
    ) -> None:
        """Sign n frames in place. The ``kind`` of forged ones becomes FORGED, and their ``hashes`` are those of the
        signed frame, as in a dead letter. The others keep the hash of the plain frame, which lands."""
        n = len(starts)
        forged = (self._random.random(n) < self._signing.forged) & (kind == GOOD)
        epochs = np.zeros(n, np.uint32)
        epochs_of(device, kind, self._epoch, epochs)
        wanted = np.where(forged, FORGE, SIGN).astype(np.uint8)
        sign(buf, starts, lengths, *self._key, wanted, self._words[device], epochs, self._signing.generation)
        if forged.any():
            whole = np.zeros(n, np.uint64)
            fnv1a64_column(buf, starts, lengths, whole)
            hashes[forged] = whole[forged]
            kind[forged] = FORGED
