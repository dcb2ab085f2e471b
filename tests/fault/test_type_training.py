"""A training of types that is stopped, killed or out of memory, beside a lane under load: the lane goes on."""

import os
import signal
import threading
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.core.fingerprint.typed import TypesInUse
from klais.fingerprint.model import KIND
from klais.fingerprint.snapshot import Snapshot
from klais.models.store import ModelStore
from klais.system.waiting import poll_until
from klais.worker.lanes import Lanes
from klais.worker.types import TypeKeeper
from tests.support.device_types import KINDS, TypedLane, some_fleet
from tests.support.process import PATIENCE


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return some_fleet(4)[1]


def test_stopped_or_killed_a_training_never_touches_the_lanes(tmp_path: Path, snapshot: Snapshot) -> None:
    settings = Settings(state_dir=tmp_path, models_dir=tmp_path / "models")
    store, in_use = ModelStore(tmp_path / "models"), TypesInUse()
    lane = TypedLane(in_use)
    kinds = [(f"{kind}-a", payload) for kind, (payload, _) in KINDS.items()]

    def load(frames: int) -> None:
        """Frames that the lane decides; each must pass."""
        before = int(lane.state.tally[0])
        for n in range(frames):
            name, payload = kinds[n % len(kinds)]
            lane.send(name, payload(lane.rng), 10.0)
        assert int(lane.state.tally[0]) == before + frames

    for max_s, how in ((3600.0, signal.SIGKILL), (1.0, signal.SIGSTOP)):
        keeper, ended = TypeKeeper(settings, in_use, Lanes(), max_s), []
        runs = threading.Thread(target=lambda keeper=keeper, ended=ended: ended.append(keeper.train(snapshot)))
        runs.start()
        assert poll_until(lambda keeper=keeper: keeper.training is not None, 30 * PATIENCE), "it began"
        child = keeper.training
        assert child is not None
        os.kill(child, how)
        load(90)
        runs.join(60 * PATIENCE)  # one that hangs is killed when its time is over
        assert ended == [False] and (keeper.failed, keeper.trained, keeper.training) == (1, 0, None)
        assert store.models(KIND) == [] and in_use.current.version == ""
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
        load(30)
    keeper = TypeKeeper(settings, in_use, Lanes())
    assert keeper.train(snapshot), "the next one works: nothing was left behind"
    assert len(in_use.current.names) == len(KINDS) and [model.active for model in store.models(KIND)] == [True]
    load(180)
    assert lane.facts("camera-a").type == "camera" and lane.flags == []


def test_a_training_out_of_memory_fails_and_nothing_else_does(tmp_path: Path, snapshot: Snapshot) -> None:
    settings = Settings(state_dir=tmp_path, models_dir=tmp_path / "models", fingerprint_bytes=64 << 20)
    keeper = TypeKeeper(settings, TypesInUse(), Lanes())
    assert not keeper.train(snapshot) and keeper.failed == 1
    assert ModelStore(tmp_path / "models").models(KIND) == []
