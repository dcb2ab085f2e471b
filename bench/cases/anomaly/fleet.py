"""``python -m bench fleet [--seconds S] [--devices N] [--json]``: flags and incidents of a fleet with events.

The simulator's devices send at the rate of NASA's launch day; lanes decide their frames like a worker, in process. In
the first run all devices are normal, so every flag is false. In the second, 20 of them send only every third frame from
60 % of the time on; a device that is flagged for its interval after that counts as found. The recording itself pauses a
few times, which is an incident of the fleet. Then, at a steady rate: the whole fleet pauses for a tenth of the time,
all devices switch to Fahrenheit, and a third of them pauses. Each of these has one cause, so is one incident.
"""

import argparse
import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from klais.config.load import Settings
from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.record import OF_INTERVAL
from klais.core.incidents.fleet import FleetWatch, judge_fleet
from klais.core.incidents.grouping import Grouping, Rules
from klais.core.incidents.summary import read_flag
from klais.core.lane.journal import Limits
from klais.core.lane.render import anomaly_records
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, take_raw
from klais.core.wire.batch import encode_batch
from klais.core.wire.partition import partition_of
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import NASA_DEFAULT_SCALE, NASA_DEFAULT_START, Schedule, SteadyRate, TraceReplay, nasa_trace
from klais.worker.detector import detector_maker

SLOWED, EVERY = 20, 3
STEADY_S, INTERVAL_S = 1500.0, 10.0  # of a run at a steady rate: 90 scores of each field before the event
BATCH_NS, STEADY_BATCH_NS = 20_000_000, 1_000_000_000  # of receive time in one frame batch
EPOCH_NS = 1_700_000_000_000_000_000
OPEN = Limits(1e12, 1e12, 1e9, 1e9, 0, 100_000, 1e9, 60.0)


@dataclass(frozen=True, slots=True)
class Event:
    """Change of the first ``devices`` devices from ``begin`` to ``end`` (shares of the time).

    They send one frame in ``every`` (0: none), or all frames with ``fahrenheit`` temperatures.
    """

    name: str
    devices: int
    begin: float = 0.6
    end: float = 1.0
    every: int = 1
    fahrenheit: bool = False
    steady: bool = True


def events(devices: int) -> list[Event]:
    """One run each."""
    return [
        Event("normal", 0, steady=False),
        Event("slowed", SLOWED, every=EVERY, steady=False),
        Event("pause", devices, end=0.7, every=0),
        Event("unit", devices, fahrenheit=True),
        Event("site", devices // 3, end=0.7, every=0),
    ]


_TEMPERATURE = re.compile(rb'"t":(-?[0-9.]+)')


def in_fahrenheit(frame: bytes) -> bytes:
    """The frame with its temperature in another unit."""
    return _TEMPERATURE.sub(lambda found: b'"t":%.2f' % (float(found[1]) * 1.8 + 32), frame)


class Fleet:
    """Lanes with detectors, fed by receive time; ``flags`` are (time ns, device id, whether of an interval)."""

    def __init__(self, settings: Settings) -> None:
        make = detector_maker(settings, CpuBudget(settings.anomaly_cpu_share, time.thread_time_ns))
        self.states = [LaneState(detector=make()) for _ in range(settings.partitions)]
        self.flags: list[tuple[int, bytes, bool]] = []
        self.grouping, self._watch, self._second_s = Grouping(Rules()), FleetWatch(), 0
        self._arrived = self.frames = 0
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
        if step.flags is not None and step.columns is not None:
            for found in step.flags.found:
                i = int(found["frame"])
                self.flags.append((times_ns[i], step.columns.device_id(i), int(found["nth"]) == OF_INTERVAL))

    def pass_time(self, at_s: float) -> None:
        """Do the leader's work of each second, up to ``at_s``."""
        while self._second_s + 1 <= at_s:
            self._second_s += 1
            rate, self._arrived = float(self.frames - self._arrived), self.frames
            at_ms = EPOCH_NS // 1_000_000 + 1000 * self._second_s
            edges = frozenset({"edge-1"})
            judge_fleet(self._watch, self.grouping, self._second_s, at_ms, rate, edges, lambda _flag: False)
            self.grouping.settle(at_ms)


def schedule_of(event: Event, devices: int) -> Schedule:
    """Send times of frames."""
    if event.steady:
        return SteadyRate(devices / INTERVAL_S)
    trace = nasa_trace()
    return TraceReplay(trace, NASA_DEFAULT_SCALE * devices / 1000, trace.row_of(NASA_DEFAULT_START))


def run(settings: Settings, devices: int, seconds: float, event: Event) -> dict[str, Any]:
    """One run."""
    stream = FrameStream(StreamOptions(devices=devices, seed=1), schedule_of(event, devices))
    seconds = STEADY_S if event.steady else seconds
    lane_of = [partition_of(stream.device_id(d), settings.partitions) for d in range(devices)]
    fleet, sent = Fleet(settings), np.zeros(devices, np.int64)
    waiting: list[tuple[list[bytes], list[int]]] = [([], []) for _ in range(settings.partitions)]
    at_s, number = 0.0, 0
    while at_s < seconds:
        chunk = stream.next_chunk()
        for i, device in enumerate(chunk.device.tolist()):
            at_s = stream.schedule.time_of(number)
            number += 1
            frame, hit = chunk.frame(i), device < event.devices and event.begin <= at_s / seconds < event.end
            if hit:
                sent[device] += 1
                if event.every == 0 or sent[device] % event.every:
                    fleet.pass_time(at_s)
                    continue
                frame = in_fahrenheit(frame) if event.fahrenheit else frame
            at_ns = EPOCH_NS + int(at_s * 1e9)
            frames, times_ns = waiting[lane_of[device]]
            if times_ns and at_ns - times_ns[0] > (STEADY_BATCH_NS if event.steady else BATCH_NS):
                fleet.take(lane_of[device], frames, times_ns)
                frames, times_ns = waiting[lane_of[device]] = ([], [])
            frames.append(frame)
            times_ns.append(at_ns)
            fleet.pass_time(at_s)
    return figures(fleet, event, {stream.device_id(d) for d in range(event.devices)}, seconds)


def figures(fleet: Fleet, event: Event, hit: set[bytes], seconds: float) -> dict[str, Any]:
    """Results of the run; ``hit`` are the ids of the devices of the event."""
    from_ns = EPOCH_NS + int(event.begin * seconds * 1e9)
    since = [flag for flag in fleet.flags if flag[1] in hit and flag[0] >= from_ns]
    kinds = Counter(
        f"{one.kind} of {one.feature}" for one in fleet.grouping.incidents.values()
    )  # fmt: skip
    return {
        "frames": fleet.frames,
        "false_flags": len(fleet.flags) - len(since),
        "flags": len(since),
        "found": len({name for _, name, interval in since if interval or event.fahrenheit}),
        "incidents": len(fleet.grouping.incidents),
        "incident_kinds": dict(kinds),
        "take_raw_ns": round(fleet.took_ns / fleet.frames, 1),
    }


def main(arguments: list[str]) -> int:
    """Run the benchmark that the module describes."""
    parser = argparse.ArgumentParser("python -m bench fleet", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--detector", choices=("two_tier", "zscore"), default="two_tier")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args(arguments)
    settings = Settings(anomaly_detector=options.detector)
    out: dict[str, Any] = {"detector": options.detector, "devices": options.devices, "seconds": options.seconds}
    for event in events(options.devices):
        found = run(settings, options.devices, options.seconds, event)
        print(f"{event.name:8} {found}", flush=True)
        out |= {f"{event.name}_{key}": value for key, value in found.items()}
    if options.json:
        print(json.dumps({"name": "fleet", **out, "slowed": SLOWED}))
    return 0
