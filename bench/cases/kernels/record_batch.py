"""Cost a record of the record batch writer: laying out, compressing and closing, on one core, best of many runs.

Run with ``python -m bench.cases.kernels.record_batch [--json]``.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from klais.kafka.record_batch import RecordBatchWriter

RUNS = 60
COUNT = 6000


def best_ns(call: Callable[[], object], count: int) -> float:
    """ns for each of ``count`` records, the fastest of ``RUNS``."""
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - start)
    return best / count


def columns(payload_bytes: int) -> tuple[Any, Any, Any, Any, Any, Any, Any]:
    """Frames of 1,000 devices with payloads of the given size and two random readings each."""
    rng = np.random.default_rng(7)
    frames = []
    for i in range(COUNT):
        payload = b'{"t":%.2f,"h":%.2f,"s":"' % tuple(rng.uniform(10, 100, 2))
        payload += b"x" * (payload_bytes - len(payload) - 2) + b'"}'
        frames.append(b"\xaaU" + (b"device-%05d" % (i % 1000)).ljust(16, b"\0") + i.to_bytes(4, "big") + payload)
    lengths = np.array([len(f) for f in frames], np.int64)
    starts = np.cumsum(lengths) - lengths
    ts_ms = 1_700_000_000_000 + np.arange(COUNT, dtype=np.int64) // 500
    sequence = np.arange(COUNT, dtype=np.uint32) + np.uint32(100_000)
    index = np.arange(COUNT, dtype=np.int32)
    return (
        np.frombuffer(b"".join(frames), np.uint8),
        starts,
        lengths,
        np.full(COUNT, 12, np.uint8),
        sequence,
        ts_ms,
        index,
    )


def measure(payload_bytes: int) -> dict[str, float]:
    """Figures for one payload size."""
    writer, given = RecordBatchWriter(4_000_000), columns(payload_bytes)

    def append() -> None:
        writer.reset()
        assert writer.append_telemetry(*given, 0, 1, 0) == COUNT

    return {
        "payload_bytes": payload_bytes,
        "append_ns": round(best_ns(append, COUNT), 1),
        "close_ns": round(best_ns(lambda: writer.close(1, 1, 0), COUNT), 1),
        "record_bytes": round(writer.size / COUNT, 1),
        "wire_bytes": round(len(writer.close(1, 1, 0).data) / COUNT, 1),
    }


def main() -> None:
    """Print the table, and with ``--json`` one object on the last line."""
    results = [measure(size) for size in (35, 120, 500)]
    machine = f"{platform.machine()} {platform.release()} python {platform.python_version()} numba {numba.__version__}"
    for row in results:
        print("  ".join(f"{name}={value}" for name, value in row.items()))
    if "--json" in sys.argv:
        print(json.dumps({"machine": machine, "record_batch": results}))
    else:
        print(machine)


if __name__ == "__main__":
    main()
