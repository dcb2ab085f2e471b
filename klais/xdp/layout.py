"""Mirror of ``bpf/klais.h`` for numpy: verdicts, rules, layouts of map values, maps (a test compares the two)."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np

from klais.core.wire.constants import ID_SIZE

VERSION = 7
SLOTS = 4
WAYS = 2
PLACES = 2
RULES = 65_536
MARK_WORDS = 4096
SOURCES = 65_536
ALLOWED_SOURCES = 4096
BLOCKED_SOURCES = 4096
GENERIC = 8
MAX_TAGS = 2
MAX_EXTENSIONS = 6
GENERATIONS = 4
MAX_CHECKED = 512
KNOWN_BITS = 11
QUEUES = 256
SOURCE_BYTES = 18
SLOT_FRAME_BYTES = 2072
RINGBUF_HEADER_BYTES = 8
ABOUT_BYTES = 1024
GLOBAL_COST = 1_000_000_000  # credit units per frame: rates in frames/s are units/ns
DEVICE_COST = 1_000_000_000_000  # the same for devices, whose rates are in thousandths of a frame per second
SOURCE_COST = DEVICE_COST
MAX_CAP = 1 << 62
FOREVER = (1 << 64) - 1
CLAIMED = (1 << 64) - 1


class Verdict(IntEnum):
    """The filter's verdict on a packet (``enum klais_verdict``); ``WOULD_``: it passed only because of monitor mode."""

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
    UNPARSABLE = 11
    SOURCE_DENIED = 12
    SOURCE_RATE = 13
    FRAGMENT_DROPPED = 14
    AGGREGATED = 15
    BAD_MAC = 16
    UNSIGNED = 17
    UNVERIFIED = 18
    BLOCKED_SOURCE = 19
    WOULD_TOO_SHORT = 35
    WOULD_BAD_MAGIC = 36
    WOULD_BAD_DEVICE_ID = 37
    WOULD_BLOCKED = 38
    WOULD_DEVICE_RATE = 39
    WOULD_GLOBAL_RATE = 40
    WOULD_UNPARSABLE = 43
    WOULD_SOURCE_DENIED = 44
    WOULD_SOURCE_RATE = 45
    WOULD_BAD_MAC = 48
    WOULD_UNSIGNED = 49
    WOULD_UNVERIFIED = 50
    WOULD_BLOCKED_SOURCE = 51

    @property
    def label(self) -> str:
        """Lower-case name for counters and messages."""
        return self.name.lower()

    @property
    def drops(self) -> bool:
        """Whether packets with this verdict are dropped."""
        passes = (Verdict.TOO_LONG, Verdict.AGGREGATED)
        return Verdict.TOO_SHORT <= self < WOULD and self not in passes


WOULD = 32
VERDICTS = 64


class Monitor(IntFlag):
    """Rules that can be set to only count (``enum klais_monitor``)."""

    MAGIC = 1
    BLOCK = 2
    DEVICE_RATE = 4
    GLOBAL_RATE = 8
    HEADERS = 16
    SOURCE_LIST = 32
    SOURCE_RATE = 64
    AUTH = 128
    SOURCE_BLOCK = 256


class AuthMode(IntFlag):
    """How the filter treats signed frames (``enum klais_auth_mode``); 0: as frames with a bad magic."""

    KNOW = 1
    CHECK = 2
    REQUIRE = 4


class SourceRule(IntFlag):
    """Enabled checks of the source address (``enum klais_source_rule``)."""

    LIST = 1
    RATE = 2
    BLOCK = 4


class Accept(IntEnum):
    """Destination of accepted frames (``enum klais_accept``)."""

    PASS = 0
    XSK = 1
    RING = 2


LIMIT = np.dtype([("rate_units", "<u8"), ("cap_units", "<u8"), ("fill_ns", "<u8")])
LIMITS = np.dtype([("global", LIMIT), ("device", LIMIT)])
ADDRESS = np.dtype([("words", "<u8", (2,))])
PREFIX = np.dtype([("prefix_bits", "<u4"), ("family", "<u4"), ("address", ADDRESS)])
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
        ("source_rules", "<u4"),
        ("source_slot", "<u4"),
        ("drop_fragments", "<u4"),
        ("skb_tail", "<u4"),
        ("ipv4_mask", ADDRESS),
        ("ipv6_mask", ADDRESS),
        ("generic", "<u4", (GENERIC,)),
        ("source_slots", LIMIT, (SLOTS,)),
        ("slots", LIMITS, (SLOTS,)),
    ]
)
BUCKET = np.dtype([("credit_units", "<i8"), ("last_ns", "<u8")])
GENERATION = np.dtype([("key", "<u8", (2,)), ("serial", "<u8")])
AUTH = np.dtype(
    [
        ("mode", "<u8"),
        ("max_bytes", "<u8"),
        ("unverified", LIMIT),
        ("bucket", BUCKET),
        ("generations", GENERATION, (GENERATIONS,)),
    ]
)
KNOWN = np.dtype([("id", "u1", (16,)), ("serial", "<u8"), ("key", "<u8", (2,))])
WAY = np.dtype([("key", "<u8"), ("bucket", BUCKET)])
SET = np.dtype([("ways", WAY, (WAYS,)), ("passed", "<u4", (WAYS,)), ("prefetch", "<u8")])
OWNER = np.dtype([("id", "u1", (16,)), ("dropped", "<u8")])
OWNERS = np.dtype([("ways", OWNER, (WAYS,)), ("prefetch", "<u8"), ("spare", "<u8")])
SPREAD = np.dtype([("multipliers", "<u8", (PLACES, 4)), ("shift", "<u8")])
RULE = np.dtype([("block_until_ns", "<u8"), ("allow_until_ns", "<u8"), ("limit", LIMIT), ("dropped", "<u8")])
SOURCE_BLOCK = np.dtype([("until_ns", "<u8"), ("prefix_bits", "<u8"), ("dropped", "<u8")])
COUNT = np.dtype([("packets", "<u8"), ("bytes", "<u8")])
PORTS = np.dtype([("bits", "<u8", (1024,))])
MARKS = np.dtype([("bits", "<u8", (MARK_WORDS,))])
ABOUT = np.dtype([("json", "u1", (ABOUT_BYTES,))])
# A record of the ring; with the kernel's header each takes SLOT.itemsize + 8 = 2112 bytes.
SLOT = np.dtype(
    {
        "names": ["time_ns", "length", "queue", "source", "frame"],
        "formats": ["<u8", "<u4", "<u2", ("u1", (SOURCE_BYTES,)), ("u1", (SLOT_FRAME_BYTES,))],
        "offsets": [0, 8, 12, 14, 32],
        "itemsize": 32 + SLOT_FRAME_BYTES,
    }
)

# bpf_map_type and flags of linux/bpf.h, as far as the filter's maps use them.
HASH, ARRAY, PERCPU_ARRAY, LRU_HASH, LPM_TRIE, XSKMAP, RINGBUF = 1, 2, 6, 9, 11, 17, 27
NO_PREALLOC, MMAPABLE = 1, 1 << 10


@dataclass(frozen=True, slots=True)
class MapSpec:
    """Required properties of a pinned map: for ``BPF_MAP_CREATE``, and compared with ``BPF_OBJ_GET_INFO_BY_FD``."""

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
    """Sets of a table for this many devices: a power of two, so that at most half of the ways are used."""
    return 1 << (devices - 1).bit_length()


def map_specs(devices: int, ring_bytes: int) -> tuple[MapSpec, ...]:
    """All maps of the filter, in the order of ``KLAIS_MAPS``.

    Parameters
    ----------
    devices : int
        Maximum number of devices; the table has at least twice as many ways.
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
        MapSpec("rules", HASH, ID_SIZE, RULE.itemsize, RULES, NO_PREALLOC),
        MapSpec("marks", ARRAY, 4, MARKS.itemsize, 1, MMAPABLE),
        MapSpec("bucket", ARRAY, 4, BUCKET.itemsize, 1),
        MapSpec("sources", LRU_HASH, ADDRESS.itemsize, BUCKET.itemsize, SOURCES),
        MapSpec("src_allow", LPM_TRIE, PREFIX.itemsize, 8, ALLOWED_SOURCES, NO_PREALLOC),
        MapSpec("xsks", XSKMAP, 4, 4, QUEUES),
        MapSpec("ring", RINGBUF, 0, 0, ring_bytes),
        MapSpec("about", ARRAY, 4, ABOUT.itemsize, 1),
        MapSpec("auth", ARRAY, 4, AUTH.itemsize, 1),
        MapSpec("known", PERCPU_ARRAY, 4, KNOWN.itemsize, 1 << KNOWN_BITS),
        MapSpec("src_block", LPM_TRIE, PREFIX.itemsize, SOURCE_BLOCK.itemsize, BLOCKED_SOURCES, NO_PREALLOC),
    )
