"""Send frames the way a device does: one UDP datagram each, nothing but Python's standard library.

    python examples/send_frame.py [host [port]]        then:  klais tail iot_telemetry
"""

import json
import socket
import struct
import sys

host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 5000

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for sequence in range(3):
    payload = json.dumps({"temperature": 21.5 + sequence, "unit": "C"}).encode()
    # magic 0xAA55, device id in 16 bytes padded with NUL, a counter that only grows; big-endian; then one JSON object
    frame = struct.pack(">H16sI", 0xAA55, b"sensor-42", sequence) + payload
    sock.sendto(frame, (host, port))
    print(f"sent {len(frame)} bytes to {host}:{port}")
