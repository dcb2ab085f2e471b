"""The format of a spool segment, and its reading: every byte is checked before it is believed.

A segment is a file ``<base>-<identity>-<salt>.spool``: the logical offset of its first byte (20 digits), what its
batches were made for, and a random number (8 hexadecimal digits each). It holds records and nothing else. A record,
little-endian: ``b"KSR1"``, u32 size of the value, u32 partition, u32 frames, u32 CRC32C of the value, u32 CRC32C of
the 20 bytes before xor salt; then the value, a KFB1 frame batch.

The header's own CRC makes its size trustworthy, so that one damaged value costs one batch. Behind a damaged header
the next record is found by its first four bytes and both of its CRCs; the salt keeps a device from planting a record
in a payload.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

import google_crc32c

MAGIC = b"KSR1"
_HEAD = Struct("<4sIIII")
_CRC = Struct("<I")
HEADER_SIZE = _HEAD.size + _CRC.size
POSITION_SIZE = 12
MAX_VALUE = 4 << 20  # as large as a record on any topic may be
_NAME = re.compile(r"^(\d{20})-([0-9a-f]{8})-([0-9a-f]{8})\.spool$")


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as Kafka and iSCSI use it."""
    crc: int = google_crc32c.value(data)
    return crc


def identity_of(topic: str, partitions: int) -> int:
    """What a segment's batches were made for: they fit no other topic, nor the same with other partitions."""
    return crc32c(f"{topic}/{partitions}".encode())


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of a segment's file says."""

    base: int
    identity: int
    salt: int

    def __str__(self) -> str:
        return f"{self.base:020d}-{self.identity:08x}-{self.salt:08x}.spool"


def parse_name(text: str) -> Name | None:
    """The parts of a file's name; None when it is no segment's.

    Examples
    --------
    >>> parse_name("00000000000000004096-1c291ca3-00000007.spool")
    Name(base=4096, identity=472456355, salt=7)
    """
    found = _NAME.match(text)
    return Name(int(found[1]), int(found[2], 16), int(found[3], 16)) if found else None


@dataclass(frozen=True, slots=True)
class Head:
    """A record's header: where the record begins in its file, sizes (bytes), and the CRC its value must have."""

    at: int
    size: int
    partition: int
    frames: int
    crc: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.at + HEADER_SIZE + self.size


def position_name(identity: int) -> str:
    """The file beside the segments that says up to which logical offset Kafka has acknowledged them."""
    return f"position-{identity:08x}"


def encode_position(position: int) -> bytes:
    """What that file holds."""
    body = position.to_bytes(8, "little")
    return body + _CRC.pack(crc32c(body))


def decode_position(data: bytes) -> int:
    """The position; 0 where the file does not hold one: then batches are sent again, and lanes recognize them.

    Examples
    --------
    >>> decode_position(encode_position(4096)), decode_position(b"")
    (4096, 0)
    """
    sound = len(data) == POSITION_SIZE and _CRC.unpack(data[8:])[0] == crc32c(data[:8])
    return int.from_bytes(data[:8], "little") if sound else 0


def read_position(folder: Path, identity: int) -> int:
    """The position of the segments of that identity."""
    try:
        return decode_position((folder / position_name(identity)).read_bytes())
    except FileNotFoundError:
        return 0


def encode_head(value: bytes, partition: int, frames: int, salt: int) -> bytes:
    """The 24 bytes before a value."""
    head = _HEAD.pack(MAGIC, len(value), partition, frames, crc32c(value))
    return head + _CRC.pack(crc32c(head) ^ salt)


def decode_head(data: bytes, at: int, salt: int, offset: int = 0) -> Head | None:
    """The header at ``data[offset:]`` of a record that begins at ``at`` of its file; None when there is none."""
    if len(data) - offset < HEADER_SIZE:
        return None
    magic, size, partition, frames, crc = _HEAD.unpack_from(data, offset)
    if magic != MAGIC or size > MAX_VALUE:
        return None
    (own,) = _CRC.unpack_from(data, offset + _HEAD.size)
    right = own == crc32c(data[offset : offset + _HEAD.size]) ^ salt
    return Head(at, size, partition, frames, crc) if right else None


def value_is_right(data: bytes, head: Head) -> bool:
    """Whether the value of a record lies whole in ``data``, its file from the beginning, and has the CRC it must
    have.
    """
    return head.end <= len(data) and crc32c(data[head.at + HEADER_SIZE : head.end]) == head.crc


def find_record(data: bytes, begin: int, salt: int) -> Head | None:
    """The first record at or after ``begin`` whose header and value are both right."""
    while (at := data.find(MAGIC, begin)) >= 0:
        head = decode_head(data, at, salt, at)
        if head is not None and value_is_right(data, head):
            return head
        begin = at + 1
    return None


def walk(data: bytes, salt: int, begin: int = 0) -> Iterator[Head]:
    """Headers of all records from ``begin`` on that lie whole in ``data``; what is damaged is skipped.

    Values are not checked: that is done when a record is read, or by :func:`sound_end`.
    """
    while begin < len(data):
        head = decode_head(data, begin, salt, begin)
        if head is None or head.end > len(data):
            head = find_record(data, begin + 1, salt)
            if head is None:
                return
        yield head
        begin = head.end


def sound_end(data: bytes, salt: int) -> int:
    """Where the last record with a right header and value ends; what lies behind is a torn tail."""
    end = 0
    for head in walk(data, salt):
        if value_is_right(data, head):
            end = head.end
    return end
