"""The wire frame without kernels: offsets, the ``Reason`` of every verdict, and one frame as bytes (no numba here)."""

from enum import IntEnum

MAGIC = 0xAA55
MAGIC_BYTES = b"\xaa\x55"
ID_OFFSET = 2
ID_SIZE = 16
SEQUENCE_OFFSET = 18
HEADER_SIZE = 22
MAX_FRAME_SIZE = 65_507  # largest UDP payload over IPv4


class Reason(IntEnum):
    """The outcome of a frame. Below 24: a lane's verdict, a byte in the journal. From 24: not a verdict of a lane.

    Counters, dead letters, the journal and logs all use this enum; ``label`` is the name in all of them.
    """

    PASSED = 0
    QUEUED = 1
    DUPLICATE = 2
    BLOCKED = 3
    DEVICE_RATE = 4
    QUEUE_FULL = 5
    DEVICE_LIMIT = 6
    REPLAYED = 7
    UNSIGNED = 8
    TOO_SHORT = 9
    BAD_MAGIC = 10
    BAD_DEVICE_ID = 11
    BAD_UTF8 = 12
    BAD_JSON = 13
    NOT_OBJECT = 14
    TOO_DEEP = 15
    NOT_STRICT = 16
    BACKPRESSURE = 24
    KERNEL_DROP = 25
    DELIVERY_FAILED = 26
    TOO_LONG = 27
    CORRUPT_BATCH = 28
    REPEATED_BATCH = 29
    QUEUE_EXPIRED = 30
    SPOOL_FULL = 31
    SPOOL_FAILED = 32
    SPOOL_DAMAGED = 33
    GLOBAL_RATE = 34
    POISON = 35
    OUTPUT_LOST = 36
    BAD_MAC = 37
    BAD_EPOCH = 38
    BLOCKED_SOURCE = 39

    @property
    def label(self) -> str:
        """Lower-case name for metrics, headers and logs."""
        return self.name.lower()

    @property
    def intentional(self) -> bool:
        """Whether a rule of yours or the protocol requires the drop; every other drop is a loss."""
        return self not in _LOSSES


_LOSSES = frozenset(
    {
        *(Reason.QUEUE_FULL, Reason.DEVICE_LIMIT, Reason.GLOBAL_RATE, Reason.BACKPRESSURE, Reason.KERNEL_DROP),
        *(Reason.DELIVERY_FAILED, Reason.SPOOL_FULL, Reason.SPOOL_FAILED, Reason.SPOOL_DAMAGED),
        *(Reason.CORRUPT_BATCH, Reason.QUEUE_EXPIRED, Reason.POISON, Reason.OUTPUT_LOST),
    }
)
FIRST_MALFORMED = int(Reason.TOO_SHORT)
LAST_MALFORMED = int(Reason.NOT_STRICT)
VERDICTS = 24  # size of an array counted by verdict
REASONS = max(Reason) + 1  # size of an array counted by ``Reason``


ID_RULE = f"a device_id has 1 to {ID_SIZE} bytes in UTF-8 and no NUL"
"""The condition of :func:`is_device_id`, for error messages."""


def is_device_id(key: bytes) -> bool:
    """Whether the bytes can be the device_id of a frame, without padding: 1 to 16, no NUL. UTF-8 is not checked."""
    return 1 <= len(key) <= ID_SIZE and b"\0" not in key


def encode_frame(device_id: str | bytes, sequence: int, payload: bytes) -> bytes:
    """One frame as bytes, for examples, tools and tests.

    Raises
    ------
    ValueError
        If device_id is empty or longer than 16 bytes, or the frame would exceed 65,507 bytes.

    Examples
    --------
    >>> encode_frame("dev-1", 7, b'{"t":1}').hex()
    'aa556465762d310000000000000000000000000000077b2274223a317d'
    """
    key = device_id.encode() if isinstance(device_id, str) else device_id
    if not 1 <= len(key) <= ID_SIZE:
        raise ValueError(f"device_id must have 1 to {ID_SIZE} bytes in UTF-8, not {len(key)}: {device_id!r}")
    frame = MAGIC_BYTES + key.ljust(ID_SIZE, b"\0") + (sequence & 0xFFFFFFFF).to_bytes(4, "big") + payload
    if len(frame) > MAX_FRAME_SIZE:
        raise ValueError(f"frame of {len(frame)} bytes does not fit a UDP datagram (at most {MAX_FRAME_SIZE})")
    return frame
