"""``python -m bench fleet [--seconds S] [--devices N] [--json]``: a fleet whose rate changes, and devices that slow.

The simulator's devices send at the rate of NASA's launch day; lanes decide their frames as a worker does, in process.
Once all devices are normal, so every flag is false. Once 20 of them send only every third frame from 60 % of the time
on; a device that was flagged for its interval since then is found. ``incidents`` are those that the flags become.
"""

import argparse
import json
import time
from typing import Any

import numpy as np

from klais.config.load import Settings
from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.record import OF_INTERVAL
from klais.core.incidents.grouping import Grouping, Rules
from klais.core.incidents.summary import read_flag
from klais.core.lane.journal import Limits
from klais.core.lane.render import anomaly_records
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, take_raw
from klais.core.wire.batch import encode_batch
from klais.core.wire.partition import partition_of
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import NASA_DEFAULT_SCALE, NASA_DEFAULT_START, TraceReplay, nasa_trace
from klais.worker.detector import detector_maker

SLOWED, SLOW_FROM, EVERY = 20, 0.6, 3
BATCH_NS = 20_000_000  # of receive time in one frame batch
EPOCH_NS = 1_700_000_000_000_000_000
OPEN = Limits(1e12, 1e12, 1e9, 1e9, 0, 100_000, 1e9, 60.0)


class Fleet:
    """Lanes with detectors, fed by receive time; ``flags`` are (time ns, device id, whether of an interval)."""

    def __init__(self, settings: Settings) -> None:
        make = detector_maker(settings, CpuBudget(settings.anomaly_cpu_share, time.thread_time_ns))
        self.states = [LaneState(detector=make()) for _ in range(settings.partitions)]
        self.flags: list[tuple[int, bytes, bool]] = []
        self.grouping, self._settled_ms = Grouping(Rules()), 0
        self.frames = 0
        self.took_ns = 0

    def take(self, partition: int, frames: list[bytes], times_ns: list[int]) -> None:
        """One frame batch of one lane."""
        state = self.states[partition]
        offsets = np.array([at - times_ns[0] for at in times_ns], np.uint32)
        value = encode_batch(frames, times_ns[0], 1, 1, state.next_raw, offsets=offsets)
        began = time.thread_time_ns()
        step = take_raw(state, state.next_raw, value, OPEN, Bounds(1, 10**9), times_ns[-1])
        self.took_ns += time.thread_time_ns() - began
        self.frames += len(frames)
        for _, body, _, _ in anomaly_records(step):
            if (flag := read_flag(body, partition, times_ns[-1] // 1_000_000)) is not None:
                self.grouping.absorb(flag)
        if times_ns[-1] // 1_000_000 - self._settled_ms >= 1000:
            self._settled_ms = times_ns[-1] // 1_000_000
            self.grouping.settle(self._settled_ms)
        if step.flags is not None and step.columns is not None:
            for found in step.flags.found:
                i = int(found["frame"])
                self.flags.append((times_ns[i], step.columns.device_id(i), int(found["nth"]) == OF_INTERVAL))


def run(settings: Settings, devices: int, seconds: float, slowed: int) -> dict[str, Any]:
    """One run; ``slowed`` devices slow down."""
    trace = nasa_trace()
    stream = FrameStream(
        StreamOptions(devices=devices, seed=1),
        TraceReplay(trace, NASA_DEFAULT_SCALE * devices / 1000, trace.row_of(NASA_DEFAULT_START)),
    )
    lane_of = [partition_of(stream.device_id(d), settings.partitions) for d in range(devices)]
    fleet, sent, slow_from_s = Fleet(settings), np.zeros(devices, np.int64), SLOW_FROM * seconds
    waiting: list[tuple[list[bytes], list[int]]] = [([], []) for _ in range(settings.partitions)]
    at_s, number = 0.0, 0
    while at_s < seconds:
        chunk = stream.next_chunk()
        for i, device in enumerate(chunk.device.tolist()):
            at_s = stream.schedule.time_of(number)
            number += 1
            if device < slowed and at_s >= slow_from_s:
                sent[device] += 1
                if sent[device] % EVERY:
                    continue
            at_ns = EPOCH_NS + int(at_s * 1e9)
            frames, times_ns = waiting[lane_of[device]]
            if times_ns and at_ns - times_ns[0] > BATCH_NS:
                fleet.take(lane_of[device], frames, times_ns)
                frames, times_ns = waiting[lane_of[device]] = ([], [])
            frames.append(chunk.frame(i))
            times_ns.append(at_ns)
    slow_ids = {stream.device_id(d) for d in range(slowed)}
    slow_from_ns = EPOCH_NS + int(slow_from_s * 1e9)
    found = {name for at, name, interval in fleet.flags if name in slow_ids and at >= slow_from_ns and interval}
    return {
        "frames": fleet.frames,
        "false_flags": sum(name not in slow_ids or at < slow_from_ns for at, name, _ in fleet.flags),
        "found": len(found),
        "incidents": len(fleet.grouping.incidents),
        "take_raw_ns": round(fleet.took_ns / fleet.frames, 1),
    }


def main(arguments: list[str]) -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser("python -m bench fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--detector", choices=("two_tier", "zscore"), default="two_tier")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args(arguments)
    settings = Settings(anomaly_detector=options.detector)
    out: dict[str, Any] = {"detector": options.detector, "devices": options.devices, "seconds": options.seconds}
    for name, slowed in (("normal", 0), ("slowed", SLOWED)):
        found = run(settings, options.devices, options.seconds, slowed)
        print(f"{name:8} {found}", flush=True)
        out |= {f"{name}_{key}": value for key, value in found.items()}
    if options.json:
        print(json.dumps({"name": "fleet", **out, "slowed": SLOWED}))
    return 0
