"""The types of devices in a worker: which model it uses, what it refuses, when it trains."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.core.fingerprint.record import DeviceTypes
from klais.core.fingerprint.typed import TypesInUse
from klais.fingerprint.model import FILE, KIND, dump_types
from klais.models.card import write_model
from klais.models.store import ModelStore
from klais.worker.lanes import Lanes
from klais.worker.types import DRIFT_S, FIRST_S, TypeKeeper
from tests.support.needs import need_missing
from tests.unit.fingerprint.test_training import some

HOUR_S = 3600.0


@pytest.fixture
def keeper(tmp_path: Path) -> TypeKeeper:
    settings = Settings(state_dir=tmp_path, models_dir=tmp_path / "models", fingerprint_train_s=HOUR_S)
    return TypeKeeper(settings, TypesInUse(), Lanes())


def publish(tmp_path: Path, version: str, types: DeviceTypes | None = None) -> Path:
    store = ModelStore(tmp_path / "models")
    folder = store.new_folder(KIND, version)
    write_model(folder, {FILE: dump_types(types or some())}, {"kind": KIND, "version": version})
    store.activate(KIND, version)
    return folder


def version_of(keeper: TypeKeeper) -> str:
    return keeper._in_use.current.version


def test_a_model_that_is_activated_is_used_from_then_on(keeper: TypeKeeper, tmp_path: Path) -> None:
    assert not keeper.refresh() and version_of(keeper) == "" and keeper.problems == ()
    publish(tmp_path, "m1")
    assert keeper.refresh() and version_of(keeper) == "m1"
    assert not keeper.refresh()
    publish(tmp_path, "m2")
    assert keeper.refresh() and version_of(keeper) == "m2"
    assert keeper.snapshot().types == 2


def test_a_model_that_is_damaged_later_is_refused_with_its_reason_and_the_lanes_go_on(
    keeper: TypeKeeper, tmp_path: Path
) -> None:
    publish(tmp_path, "m1")
    keeper.refresh()
    folder = publish(tmp_path, "m2")
    (folder / FILE).write_bytes(b"damaged")
    assert not keeper.refresh() and version_of(keeper) == "m1"
    assert len(keeper.problems) == 1 and "m2" in keeper.problems[0] and "is damaged" in keeper.problems[0]
    publish(tmp_path, "m3")
    assert keeper.refresh() and version_of(keeper) == "m3" and keeper.problems == ()


def test_another_users_model_and_one_of_another_version_are_refused(keeper: TypeKeeper, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        need_missing("root", "only root can give a file away")
    folder = publish(tmp_path, "m1")
    os.chown(folder / FILE, 1234, 1234)
    assert not keeper.refresh() and "belongs to uid 1234" in keeper.problems[0]
    folder = publish(tmp_path, "m2")
    card = folder / "card.json"
    card.write_text(card.read_text().replace('"format": 1', '"format": 2'))
    assert not keeper.refresh() and "format 2" in keeper.problems[0] and version_of(keeper) == ""
    shutil.rmtree(folder)
    publish(tmp_path, "m4")
    assert keeper.refresh()


def test_training_is_due_on_schedule_and_sooner_when_types_are_missing(keeper: TypeKeeper, tmp_path: Path) -> None:
    start_s = keeper._began_s
    assert not keeper.due({}, start_s + FIRST_S - 1) and keeper.due({}, start_s + FIRST_S)
    publish(tmp_path, "m1")
    keeper.refresh()
    known, strange = {"one": 90, "unknown": 10}, {"one": 60, "unknown": 40}
    assert not keeper.due(known, start_s + HOUR_S - 1) and keeper.due(known, start_s + HOUR_S)
    assert not keeper.due(strange, start_s + DRIFT_S - 1) and keeper.due(strange, start_s + DRIFT_S)


def test_a_training_that_cannot_be_started_or_fails_changes_nothing(
    keeper: TypeKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.fingerprint.test_training import snapshot

    publish(tmp_path, "m1")
    keeper.refresh()
    assert not keeper.train(snapshot((3, 10, 60), devices=1))
    assert (keeper.failed, keeper.trained, keeper.training, version_of(keeper)) == (1, 0, None, "m1")
    assert keeper.problems == (), "one device is no type: the training did what it should"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(OSError, match="No such file"):
        keeper.train(snapshot((3, 10, 60), devices=1))


def test_a_training_that_fails_or_hangs_is_a_problem_with_what_to_do_until_one_succeeds(
    keeper: TypeKeeper, tmp_path: Path
) -> None:
    from tests.unit.fingerprint.test_training import snapshot

    given = snapshot((3, 10, 60), devices=30)
    hangs = TypeKeeper(keeper._settings, TypesInUse(), Lanes(), max_s=0.0)
    assert not hangs.train(given)
    (problem,) = hangs.problems
    assert "longer than 0 s and was killed" in problem and "KLAIS_FINGERPRINT_TRAIN_S=0" in problem
    models = tmp_path / "models"
    models.write_text("a file")
    assert not keeper.train(given)
    (problem,) = keeper.problems
    assert "it ended with 1" in problem and str(tmp_path / KIND) in problem and "training.log" in problem
    models.unlink()
    assert keeper.train(given) and keeper.problems == ()


def test_off_means_off(tmp_path: Path) -> None:
    keeper = TypeKeeper(Settings(state_dir=tmp_path, fingerprint="off"), TypesInUse(), Lanes())
    keeper.start()
    assert not keeper.enabled and keeper._threads == []
