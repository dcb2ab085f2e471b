"""Cost of the payload check: ns per frame, for several kinds of payload (``python -m
bench.cases.kernels.payload_check``).
"""

import json
import random
import time

import numpy as np

from klais.core.wire.constants import encode_frame
from klais.core.wire.json_scan import MAX_FIELDS_PER_FRAME, scan_payloads

FRAMES = 100_000
REPEATS = 7


def payloads(kind: str, rng: random.Random, count: int) -> list[bytes]:
    """Payloads of one kind; values and their lengths differ from frame to frame."""

    def small() -> bytes:
        t, h, b = rng.uniform(-10, 40), rng.uniform(5, 99), rng.uniform(3, 4.2)
        return f'{{"t":{t:.2f},"h":{h:.1f},"b":{b:.2f},"s":{rng.randrange(4)}}}'.encode()

    def fixed() -> bytes:
        return b'{"t":21.53,"h":48.2,"b":3.71,"s":1}'

    def spaced() -> bytes:
        sensors = {"temperature": rng.gauss(20, 5), "humidity": rng.random(), "battery": rng.random()}
        return json.dumps({"device": f"häuschen-{rng.randrange(1000)}", "ok": True, "sensors": sensors}).encode()

    def nested() -> bytes:
        point = {"x": rng.randrange(100), "y": rng.randrange(100), "tags": ["a", None, 1.5]}
        return json.dumps({"pos": point, "at": 1763935315.25, "note": 'a "quoted" text'}).encode()

    make = {"small": small, "fixed": fixed, "17-digits": spaced, "nested": nested}[kind]
    return [make() for _ in range(count)]


def measure(kind: str, count: int = FRAMES, repeats: int = REPEATS) -> dict[str, float]:
    """Least and median ns a frame over the repeats of ``count`` frames, mean payload bytes, fields a frame."""
    frames = [encode_frame("dev-1", 1, payload) for payload in payloads(kind, random.Random(1), count)]
    lengths = np.array([len(frame) for frame in frames], np.int64)
    starts = np.cumsum(lengths) - lengths
    buf = np.frombuffer(b"".join(frames), np.uint8)
    cap = count * MAX_FIELDS_PER_FRAME
    columns = np.zeros(cap, np.int32), np.zeros(cap, np.uint64), np.zeros(cap)
    reason = np.zeros(count, np.uint8)
    costs = []
    for _ in range(repeats):
        began = time.process_time_ns()
        fields = scan_payloads(buf, starts, lengths, reason, *columns)
        costs.append((time.process_time_ns() - began) / count)
        assert not reason.any()
    return {
        "ns_per_frame": min(costs),
        "median_ns_per_frame": sorted(costs)[repeats // 2],
        "payload_bytes": float(lengths.mean()) - 22,
        "fields_per_frame": fields / count,
    }


def main() -> None:
    """Print one line for each kind."""
    for kind in ("fixed", "small", "17-digits", "nested"):
        print(f"{kind:10}", " ".join(f"{name}={value:.1f}" for name, value in measure(kind).items()))


if __name__ == "__main__":
    main()
