"""Device ids as columns; shared by the sender and the readers of a manifest (numpy only, no kernel)."""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import ID_SIZE


def model_ids(prefix: str, devices: int) -> npt.NDArray[np.uint8]:
    """Ids of the modelled devices, uint8 [devices, 16] NUL-padded: the prefix and a number of even width."""
    digits = max(6, len(str(devices - 1))) if len(prefix.encode()) <= ID_SIZE - 6 else len(str(devices - 1))
    number = np.arange(devices, dtype=np.int64)
    ids = np.zeros((devices, ID_SIZE), np.uint8)
    head = np.frombuffer(prefix.encode(), np.uint8)
    ids[:, : len(head)] = head
    for place in range(digits):
        ids[:, len(head) + digits - 1 - place] = 48 + number // 10**place % 10
    return ids


def listed_ids(names: list[bytes]) -> npt.NDArray[np.uint8]:
    """Ids from a list, uint8 [devices, 16] NUL-padded."""
    return np.frombuffer(b"".join(name.ljust(ID_SIZE, b"\0") for name in names), np.uint8).reshape(-1, ID_SIZE).copy()
