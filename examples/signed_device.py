"""A device that signs its frames, with nothing but the standard library.

    python signed_device.py KEY_HEX dev-1 127.0.0.1:5000

KEY_HEX is the device's key: ``klais auth device-key dev-1``.
"""

import json
import socket
import struct
import sys
import time

WORD = (1 << 64) - 1


def siphash24(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4, 64 bits."""
    k0, k1 = struct.unpack("<QQ", key)
    a, b, c, d = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def left(x: int, bits: int) -> int:
        return (x << bits | x >> 64 - bits) & WORD

    def rounds(count: int) -> None:
        nonlocal a, b, c, d
        for _ in range(count):
            a, c = a + b & WORD, c + d & WORD
            b, d, a = left(b, 13) ^ a, left(d, 16) ^ c, left(a, 32)
            c, a = c + b & WORD, a + d & WORD
            b, d, c = left(b, 17) ^ c, left(d, 21) ^ a, left(c, 32)

    whole = len(data) & ~7
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 255])
    for (word,) in struct.iter_unpack("<Q", data[:whole] + last):
        d ^= word
        rounds(2)
        a ^= word
    c ^= 0xFF
    rounds(4)
    return struct.pack("<Q", a ^ b ^ c ^ d)


def signed(key: bytes, device_id: str, sequence: int, payload: bytes, epoch: int, generation: int = 0) -> bytes:
    """A signed frame. ``epoch`` must never go back, and ``sequence`` must rise within an epoch."""
    head = struct.pack(">H16sI", 0xAA56, device_id.encode(), sequence)
    body = head + payload + struct.pack(">IB", epoch, generation << 4)
    return body + siphash24(key, body)


def main() -> None:
    """Send ten frames."""
    key, device_id, to = bytes.fromhex(sys.argv[1]), sys.argv[2], sys.argv[3].rsplit(":", 1)
    epoch = int(time.time())  # seconds since 1970 at the start; a device without a clock counts its boots instead
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for sequence in range(1, 11):
            payload = json.dumps({"t": 21.5}).encode()
            sock.sendto(signed(key, device_id, sequence, payload, epoch), (to[0], int(to[1])))
            time.sleep(1)


if __name__ == "__main__":
    main()
