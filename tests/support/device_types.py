"""Lanes whose devices have types, and a model of these types."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from klais.core.anomaly.zscore import ZScore
from klais.core.fingerprint.record import DeviceTypes
from klais.core.fingerprint.typed import Typed, TypesInUse
from klais.core.lane.render import anomaly_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import Step, take_raw
from klais.core.wire.constants import encode_frame
from klais.fingerprint.model import KIND, load_model
from klais.fingerprint.snapshot import Snapshot, snapshot_of
from klais.fingerprint.training import train
from klais.models.store import ModelStore
from tests.support.lane import T0_NS, batch, bounds, limits

S = 1_000_000_000
Payload = Callable[[np.random.Generator], bytes]


def thermostat(rng: np.random.Generator) -> bytes:
    return b'{"temperature":%.1f,"setpoint":%d,"valve":%d}' % (rng.normal(21, 0.3), 21, rng.integers(10, 90))


def camera(rng: np.random.Generator) -> bytes:
    return b'{"fps":%d,"bitrate_kbps":%d,"frames_dropped":%d,"stream":"main"}' % tuple(rng.integers(10, 99, 3))


def tracker(rng: np.random.Generator) -> bytes:
    speed = b',"speed":%.1f' % rng.uniform(0, 20) if rng.random() < 0.3 else b""
    place = rng.uniform(47, 55), rng.uniform(6, 15)
    return b'{"lat":%.5f,"lon":%.5f,"sats":%d%b}' % (*place, rng.integers(12), speed)


KINDS: dict[str, tuple[Payload, float]] = {"thermostat": (thermostat, 60.0), "camera": (camera, 10.0),
                                           "tracker": (tracker, 20.0)}  # fmt: skip


class TypedLane:
    """A lane with fingerprints, fed one frame at a time, and its replay; ``flags`` are the records of its flags."""

    def __init__(self, in_use: TypesInUse | None = None, seed: int = 1) -> None:
        self.in_use = in_use or TypesInUse()
        self.detector = Typed(ZScore(1000.0, 60_000, 60_000), self.in_use)
        self.state, self.again = LaneState(detector=self.detector), LaneState()
        self.rng, self.at_s, self.flags, self.steps = np.random.default_rng(seed), 0.0, [], 0
        self._sequence: dict[str, int] = {}

    def send(self, name: str, payload: bytes, wait_s: float) -> list[dict]:
        """Records of one frame; the replay must give the same."""
        self.at_s += wait_s
        at_ns, n = T0_NS + int(self.at_s * S), self.state.next_raw
        number = self._sequence[name] = self._sequence.get(name, 0) + 1
        value = batch([encode_frame(name, number, payload)], n, at_ns)
        step = take_raw(self.state, n, value, limits(), bounds(), at_ns)
        self.steps += 1
        flags = self._records(step)
        assert flags == self._records(replay(self.again, step.record, value))
        self.flags += [orjson.loads(record) for record in flags]
        return [orjson.loads(record) for record in flags]

    @staticmethod
    def _records(step: Step) -> list[bytes]:
        return [value for _, value, _, _ in anomaly_records(step)]

    def be(self, name: str, kind: str, frames: int) -> int | None:
        """Let ``name`` send like a ``kind``; return the number of the frame at which it was flagged."""
        payload, interval_s = KINDS[kind]
        for nth in range(frames):
            if self.send(name, payload(self.rng), interval_s * self.rng.uniform(0.98, 1.02)):
                return nth + 1
        return None

    def facts(self, name: str):
        """The detector's state of a device."""
        return self.detector.facts(self.state.find(name.encode()), name.encode())


def some_fleet(devices: int = 5, frames: int = 40) -> tuple[TypedLane, Snapshot]:
    """A lane without types, with devices of each kind, and a snapshot of their samples."""
    lane = TypedLane()
    for kind in KINDS:
        for n in range(devices):
            lane.be(f"{kind}-{n}", kind, frames)
    assert lane.flags == []
    return lane, snapshot_of(lane.detector.samples(lane.state.used), lane.state.path_names)


def some_types(folder: Path, snapshot: Snapshot | None = None) -> DeviceTypes:
    """A model of the kinds, active in the store below ``folder``."""
    store = store_of(folder)
    card = train(snapshot or some_fleet()[1], lambda version: store.new_folder(KIND, version))
    store.activate(KIND, card.version)
    return load_model(store.models(KIND)[0])


def store_of(folder: Path) -> ModelStore:
    """Model store of these tests."""
    return ModelStore(folder / "models", folder / "package")
