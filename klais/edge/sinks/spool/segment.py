"""The format of a spool segment, and its reader: every byte is checked before it is used.

A segment is a file ``<base>-<identity>-<salt>.spool``: the logical offset of its first byte (20 digits), the identity
of its batches' topic, and a random number (8 hexadecimal digits each). It contains only records. A record,
little-endian: ``b"KSR1"``, u32 size of the value, u32 partition, u32 frames, u32 CRC32C of the value, u32 CRC32C of
the 20 bytes before xor salt; then the value, a KFB1 frame batch.

The header's own CRC makes its size trustworthy, so that one damaged value costs one batch. After a damaged header the
next record is found by its first four bytes and both of its CRCs. The salt prevents a device from planting a record in
a payload.
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
MAX_VALUE = 4 << 20  # the maximum size of a record on any topic
_NAME = re.compile(r"^(\d{20})-([0-9a-f]{8})-([0-9a-f]{8})\.spool$")


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as used by Kafka and iSCSI."""
    crc: int = google_crc32c.value(data)
    return crc


def identity_of(topic: str, partitions: int) -> int:
    """Identity of a segment's batches: they fit no other topic, and no other partition count of the same topic."""
    return crc32c(f"{topic}/{partitions}".encode())


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a segment's file name."""

    base: int
    identity: int
    salt: int

    def __str__(self) -> str:
        return f"{self.base:020d}-{self.identity:08x}-{self.salt:08x}.spool"


def parse_name(text: str) -> Name | None:
    """The parts of a file's name; None if it is not a segment.

    Examples
    --------
    >>> parse_name("00000000000000004096-1c291ca3-00000007.spool")
    Name(base=4096, identity=472456355, salt=7)
    """
    found = _NAME.match(text)
    return Name(int(found[1]), int(found[2], 16), int(found[3], 16)) if found else None


@dataclass(frozen=True, slots=True)
class Head:
    """A record's header: offset of the record in its file, sizes (bytes), and the CRC of its value."""

    at: int
    size: int
    partition: int
    frames: int
    crc: int

    @property
    def end(self) -> int:
        """Offset of the next record."""
        return self.at + HEADER_SIZE + self.size


def position_name(identity: int) -> str:
    """The file next to the segments with the logical offset up to which Kafka has acknowledged them."""
    return f"position-{identity:08x}"


def encode_position(position: int) -> bytes:
    """The content of that file."""
    body = position.to_bytes(8, "little")
    return body + _CRC.pack(crc32c(body))


def decode_position(data: bytes) -> int:
    """The position; 0 if the file does not contain one: then batches are sent again, and lanes recognize them.

    Examples
    --------
    >>> decode_position(encode_position(4096)), decode_position(b"")
    (4096, 0)
    """
    sound = len(data) == POSITION_SIZE and _CRC.unpack(data[8:])[0] == crc32c(data[:8])
    return int.from_bytes(data[:8], "little") if sound else 0


def read_position(folder: Path, identity: int) -> int:
    """The position of the segments with that identity."""
    try:
        return decode_position((folder / position_name(identity)).read_bytes())
    except FileNotFoundError:
        return 0


def encode_head(value: bytes, partition: int, frames: int, salt: int) -> bytes:
    """The 24 header bytes before a value."""
    head = _HEAD.pack(MAGIC, len(value), partition, frames, crc32c(value))
    return head + _CRC.pack(crc32c(head) ^ salt)


def decode_head(data: bytes, at: int, salt: int, offset: int = 0) -> Head | None:
    """The header at ``data[offset:]`` of a record that begins at ``at`` in its file; None if there is none."""
    if len(data) - offset < HEADER_SIZE:
        return None
    magic, size, partition, frames, crc = _HEAD.unpack_from(data, offset)
    if magic != MAGIC or size > MAX_VALUE:
        return None
    (own,) = _CRC.unpack_from(data, offset + _HEAD.size)
    right = own == crc32c(data[offset : offset + _HEAD.size]) ^ salt
    return Head(at, size, partition, frames, crc) if right else None


def value_is_right(data: bytes, head: Head) -> bool:
    """Whether the value of a record is complete in ``data``, its file from the beginning, and matches its CRC."""
    return head.end <= len(data) and crc32c(data[head.at + HEADER_SIZE : head.end]) == head.crc


def find_record(data: bytes, begin: int, salt: int) -> Head | None:
    """The first record at or after ``begin`` whose header and value are both valid."""
    while (at := data.find(MAGIC, begin)) >= 0:
        head = decode_head(data, at, salt, at)
        if head is not None and value_is_right(data, head):
            return head
        begin = at + 1
    return None


def walk(data: bytes, salt: int, begin: int = 0) -> Iterator[Head]:
    """Headers of all records from ``begin`` on that are complete in ``data``; damaged ones are skipped.

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


def is_of_other_version(data: bytes) -> bool:
    """Whether the file begins with a record of another version of this format.

    Examples
    --------
    >>> is_of_other_version(b"KSR2..."), is_of_other_version(b"KSR1..."), is_of_other_version(bytes(24))
    (True, False, False)
    """
    return data[:3] == MAGIC[:3] and data[3:4].isdigit() and data[:4] != MAGIC


def sound_end(data: bytes, salt: int) -> int:
    """End of the last record with a valid header and value; the bytes after it are a torn tail."""
    end = 0
    for head in walk(data, salt):
        if value_is_right(data, head):
            end = head.end
    return end
