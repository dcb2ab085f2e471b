"""Authenticated frames without kernels: keys, tags and one signed frame as bytes (without numba).

A signed frame is ``magic AA 56 | device_id 16 | sequence u32 be | payload | epoch u32 be | ctrl u8 | tag 8``: the plain
frame with another magic and a trailer of 13 bytes. ``ctrl`` has the suite in bits 7-6 (0 = SipHash-2-4 with a tag of 64
bits), the key generation in bits 5-4, and zeros. The tag covers all bytes before it, under the key of the device::

    K_master[g] = HKDF-SHA256(secret, salt "klais-auth-v1", info "master" | g)[:16]      (RFC 5869; g is one byte)
    K_dev       = SipHash-2-4-128(K_master[g], device_id, padded to 16 bytes)

SipHash: Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF"; 128 bits as in the reference implementation.
"""

import hashlib
import hmac
import struct

from klais.core.wire.constants import HEADER_SIZE, ID_OFFSET, ID_SIZE, MAGIC_BYTES, MAX_FRAME_SIZE

SIGNED_MAGIC = 0xAA56
SIGNED_MAGIC_BYTES = b"\xaa\x56"
TAG_SIZE = 8
TRAILER_SIZE = 13  # epoch 4, ctrl 1, tag 8
MIN_PAYLOAD_BYTES = 2  # {}
MIN_SIGNED_BYTES = HEADER_SIZE + MIN_PAYLOAD_BYTES + TRAILER_SIZE
GENERATIONS = 4
KEY_SIZE = 16
MIN_SECRET_BYTES = 32
SUITE_SIPHASH = 0

_WORD = (1 << 64) - 1


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _WORD


def _rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        v[0] = v[0] + v[1] & _WORD
        v[2] = v[2] + v[3] & _WORD
        v[1] = _rotate(v[1], 13) ^ v[0]
        v[3] = _rotate(v[3], 16) ^ v[2]
        v[0] = _rotate(v[0], 32)
        v[2] = v[2] + v[1] & _WORD
        v[0] = v[0] + v[3] & _WORD
        v[1] = _rotate(v[1], 17) ^ v[2]
        v[3] = _rotate(v[3], 21) ^ v[0]
        v[2] = _rotate(v[2], 32)


def siphash24(key: bytes, data: bytes, size: int = 8) -> bytes:
    """SipHash-2-4 of ``data`` under ``key`` (16 bytes): ``size`` is 8 or 16 bytes.

    Examples
    --------
    >>> siphash24(bytes(range(16)), bytes(range(15))).hex()
    'e545be4961ca29a1'
    >>> siphash24(bytes(range(16)), b"", 16).hex()
    'a3817f04ba25a8e66df67214c7550293'
    """
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    wide = size == 16
    v[1] ^= 0xEE * wide
    whole = len(data) & ~7
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 255])
    for (word,) in struct.iter_unpack("<Q", data[:whole] + last):
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xEE if wide else 0xFF
    _rounds(v, 4)
    out = struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])
    if wide:
        v[1] ^= 0xDD
        _rounds(v, 4)
        out += struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])
    return out


def master_key(secret: bytes, generation: int) -> bytes:
    """K_master of a generation (0 to 3) from its secret.

    Examples
    --------
    >>> master_key(bytes(range(32)), 1).hex()
    '310d6f492346b2cf6aeb5ead522071e9'
    """
    extracted = hmac.digest(b"klais-auth-v1", secret, hashlib.sha256)
    return hmac.digest(extracted, b"master" + bytes([generation, 1]), hashlib.sha256)[:KEY_SIZE]


def device_key(master: bytes, device_id: bytes) -> bytes:
    """K_dev of a device; ``device_id`` unpadded.

    Examples
    --------
    >>> device_key(bytes(range(16)), b"dev-1").hex()
    '58890a2053de2dcda68180cb7217bbca'
    """
    return siphash24(master, device_id.ljust(ID_SIZE, b"\0"), 16)


def sign_frame(frame: bytes, key: bytes, epoch: int, generation: int) -> bytes:
    """The signed form of a plain frame under the key of its device.

    Raises
    ------
    ValueError
        If the payload is too short to be an object, the frame would not fit a datagram, or epoch or generation is out
        of range.

    Examples
    --------
    >>> from klais.core.wire.constants import encode_frame
    >>> key = device_key(bytes(range(16)), b"dev-1")
    >>> sign_frame(encode_frame("dev-1", 7, b'{"t":1}'), key, 1_700_000_000, 1)[-13:].hex()
    '6553f10010472f4dcc85c5aedf'
    """
    if len(frame) < HEADER_SIZE + MIN_PAYLOAD_BYTES:
        raise ValueError(f"a frame of {len(frame)} bytes has no payload to sign: at least {{}} is needed")
    if len(frame) + TRAILER_SIZE > MAX_FRAME_SIZE:
        raise ValueError(f"signed frame of {len(frame) + TRAILER_SIZE} bytes does not fit a UDP datagram")
    if not 0 <= epoch < 1 << 32:
        raise ValueError(f"epoch {epoch} is not a number of 32 bits")
    if not 0 <= generation < GENERATIONS:
        raise ValueError(f"generation {generation}: there are 0 to {GENERATIONS - 1}")
    body = SIGNED_MAGIC_BYTES + frame[2:] + struct.pack(">IB", epoch, SUITE_SIPHASH << 6 | generation << 4)
    return body + siphash24(key, body)


def plain_frame(signed: bytes) -> bytes:
    """The plain frame in a signed one, without checking its tag."""
    return MAGIC_BYTES + signed[2:-TRAILER_SIZE]


def signed_id(frame: bytes) -> bytes:
    """The unpadded device_id of a frame."""
    return frame[ID_OFFSET : ID_OFFSET + ID_SIZE].rstrip(b"\0")


def trailer(signed: bytes) -> tuple[int, int, int, int]:
    """Epoch, suite, generation and reserved bits of a signed frame.

    Examples
    --------
    >>> trailer(bytes(24) + bytes.fromhex("6553f10010472f4dcc85c5aedf"))
    (1700000000, 0, 1, 0)
    """
    epoch, ctrl = struct.unpack_from(">IB", signed, len(signed) - TRAILER_SIZE)
    return epoch, ctrl >> 6, ctrl >> 4 & 3, ctrl & 15
