"""Mirror of ``bpf/klais.h`` for numpy: verdicts, rules, layouts of map values, maps (a test compares the two)."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np

VERSION = 2
SLOTS = 4
WAYS = 2
PLACES = 2
RULES = 65_536
MARK_WORDS = 4096
QUEUES = 256
SOURCE_BYTES = 18
SLOT_FRAME_BYTES = 2072
RINGBUF_HEADER_BYTES = 8
ABOUT_BYTES = 1024
GLOBAL_COST = 1_000_000_000  # credit units a frame costs: rates in frames/s are units/ns
DEVICE_COST = 1_000_000_000_000  # the same for devices, whose rates may be thousandths of a frame a second
MAX_CAP = 1 << 62
FOREVER = (1 << 64) - 1
CLAIMED = (1 << 64) - 1


class Verdict(IntEnum):
    """What became of a packet in the filter (``enum klais_verdict``); twins ``WOULD_`` passed in monitor mode only."""

    PASS = 0
    NOT_OURS = 1
    FRAGMENT = 2
    TOO_SHORT = 3
    BAD_MAGIC = 4
    BAD_DEVICE_ID = 5
    BLOCKED = 6
    DEVICE_RATE = 7
    GLOBAL_RATE = 8
    RING_FULL = 9
    TOO_LONG = 10
    WOULD_TOO_SHORT = 19
    WOULD_BAD_MAGIC = 20
    WOULD_BAD_DEVICE_ID = 21
    WOULD_BLOCKED = 22
    WOULD_DEVICE_RATE = 23
    WOULD_GLOBAL_RATE = 24

    @property
    def label(self) -> str:
        """Lower-case name, as in counters and messages."""
        return self.name.lower()

    @property
    def drops(self) -> bool:
        """Whether packets with this verdict end in the filter."""
        return Verdict.TOO_SHORT <= self <= Verdict.RING_FULL


WOULD = 16
VERDICTS = 32


class Monitor(IntFlag):
    """Rules that can be set to count only (``enum klais_monitor``)."""

    MAGIC = 1
    BLOCK = 2
    DEVICE_RATE = 4
    GLOBAL_RATE = 8


class Accept(IntEnum):
    """Where accepted frames go (``enum klais_accept``)."""

    PASS = 0
    XSK = 1
    RING = 2


LIMIT = np.dtype([("rate_units", "<u8"), ("cap_units", "<u8"), ("fill_ns", "<u8")])
LIMITS = np.dtype([("global", LIMIT), ("device", LIMIT)])
CONFIG = np.dtype(
    [
        ("version", "<u4"),
        ("accept", "<u4"),
        ("accept_ifindex", "<u4"),
        ("monitor", "<u4"),
        ("load_slot", "<u4"),
        ("set_slot", "<u4"),
        ("set_at_ns", "<u8"),
        ("heartbeat_ns", "<u8"),
        ("slots", LIMITS, (SLOTS,)),
    ]
)
BUCKET = np.dtype([("credit_units", "<i8"), ("last_ns", "<u8")])
WAY = np.dtype([("key", "<u8"), ("bucket", BUCKET)])
SET = np.dtype([("ways", WAY, (WAYS,)), ("passed", "<u4", (WAYS,)), ("called", "<u8")])
OWNER = np.dtype([("id", "u1", (16,)), ("dropped", "<u8")])
OWNERS = np.dtype([("ways", OWNER, (WAYS,))])
SPREAD = np.dtype([("multipliers", "<u8", (PLACES, 4)), ("shift", "<u8")])
RULE = np.dtype([("block_until_ns", "<u8"), ("allow_until_ns", "<u8"), ("limit", LIMIT), ("id", "u1", (16,))])
COUNT = np.dtype([("packets", "<u8"), ("bytes", "<u8")])
PORTS = np.dtype([("bits", "<u8", (1024,))])
MARKS = np.dtype([("bits", "<u8", (MARK_WORDS,))])
ABOUT = np.dtype([("json", "u1", (ABOUT_BYTES,))])
# A record of the ring; with the kernel's own header before it each takes SLOT.itemsize + 8 = 2112 bytes.
SLOT = np.dtype(
    {
        "names": ["time_ns", "length", "queue", "source", "frame"],
        "formats": ["<u8", "<u4", "<u2", ("u1", (SOURCE_BYTES,)), ("u1", (SLOT_FRAME_BYTES,))],
        "offsets": [0, 8, 12, 14, 32],
        "itemsize": 32 + SLOT_FRAME_BYTES,
    }
)

# bpf_map_type and flags of linux/bpf.h, as far as the filter's maps need them.
HASH, ARRAY, PERCPU_ARRAY, XSKMAP, RINGBUF = 1, 2, 6, 17, 27
NO_PREALLOC, MMAPABLE = 1, 1 << 10


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One pinned map, as it must be: what ``BPF_MAP_CREATE`` is given and ``BPF_OBJ_GET_INFO_BY_FD`` must say."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int = 0

    @property
    def kernel_name(self) -> str:
        """The map's name in the kernel (``bpftool map``)."""
        return f"klais_{self.name}"


def sets_of(devices: int) -> int:
    """Sets of a table for so many devices: a power of two, so that at most half of the ways are taken."""
    return 1 << (devices - 1).bit_length()


def map_specs(devices: int, ring_bytes: int) -> tuple[MapSpec, ...]:
    """All maps of the filter, in the order of ``KLAIS_MAPS``.

    Parameters
    ----------
    devices : int
        Devices that the table is for; it has at least twice as many ways.
    ring_bytes : int
        Size of the ring buffer: a power of two of at least a page.
    """
    return (
        MapSpec("config", ARRAY, 4, CONFIG.itemsize, 1, MMAPABLE),
        MapSpec("ports", ARRAY, 4, PORTS.itemsize, 1, MMAPABLE),
        MapSpec("counts", PERCPU_ARRAY, 4, COUNT.itemsize, VERDICTS),
        MapSpec("sets", ARRAY, 4, SET.itemsize, sets_of(devices), MMAPABLE),
        MapSpec("owners", ARRAY, 4, OWNERS.itemsize, sets_of(devices), MMAPABLE),
        MapSpec("spread", ARRAY, 4, SPREAD.itemsize, 1),
        MapSpec("rules", HASH, 8, RULE.itemsize, RULES, NO_PREALLOC),
        MapSpec("marks", ARRAY, 4, MARKS.itemsize, 1, MMAPABLE),
        MapSpec("bucket", ARRAY, 4, BUCKET.itemsize, 1),
        MapSpec("xsks", XSKMAP, 4, 4, QUEUES),
        MapSpec("ring", RINGBUF, 0, 0, ring_bytes),
        MapSpec("about", ARRAY, 4, ABOUT.itemsize, 1),
    )
