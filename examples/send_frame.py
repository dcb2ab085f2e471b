"""Send frames the way a device does: one UDP datagram each, nothing but Python's standard library.

python examples/send_frame.py [host [port]]        then:  klais tail iot_telemetry
"""

import json
import socket
import struct
import sys
import time

host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 5000

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
first = (
    int(time.time()) & 0xFFFFFFFF
)  # a counter that continues over restarts: the same number and content is a duplicate
for number in range(3):
    payload = json.dumps({"temperature": 21.5 + number, "unit": "C"}).encode()
    # magic 0xAA55, device id in 16 bytes padded with NUL, a counter that only grows; big-endian; then one JSON object
    frame = struct.pack(">H16sI", 0xAA55, b"sensor-42", first + number) + payload
    sock.sendto(frame, (host, port))
    print(f"sent {len(frame)} bytes to {host}:{port}")
