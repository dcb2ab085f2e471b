"""The forecast goes on whatever happens to its models, and says what it left out."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from klais.config.load import Settings
from klais.control.forecast import (
    FEATURES,
    MIN_FORECAST_ROWS,
    NOTHING,
    NoPredictor,
    Predictor,
    TrafficForecast,
    TrendPredictor,
)
from klais.models.store import ModelStore
from klais.traffic.backends import OnnxBackend, onnx_bytes
from klais.traffic.chain import Fallback, ForecastChain, load_chain, predictor_of
from klais.traffic.predictor import LearnedPredictor
from tests.support.process import PATIENCE
from tests.support.traffic_model import some_trees, write_some

WINDOW = np.abs(np.random.default_rng(1).normal(1000.0, 50.0, (60, len(FEATURES))))


def store_of(root: Path) -> ModelStore:
    return ModelStore(root / "own", root)


def damage(root: Path, version: str, name: str) -> None:
    path = root / "traffic" / version / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_onnx_is_used_where_all_is_well(tmp_path: Path) -> None:
    write_some(tmp_path, "m1")
    steps, fallbacks = load_chain(store_of(tmp_path))
    assert [name for name, _ in steps] == ["onnx", "rules"] and fallbacks == []


def test_a_damaged_onnx_file_leaves_scikit_learn_and_damaged_trees_leave_the_rules(tmp_path: Path) -> None:
    write_some(tmp_path, "m1")
    damage(tmp_path, "m1", "model.onnx")
    steps, fallbacks = load_chain(store_of(tmp_path))
    assert [name for name, _ in steps] == ["scikit-learn", "rules"]
    assert [(fall.model, fall.optional) for fall in fallbacks] == [("m1 (onnx)", False)] and "damaged" in fallbacks[
        0
    ].why
    damage(tmp_path, "m1", "trees.npz")
    steps, fallbacks = load_chain(store_of(tmp_path))
    assert [name for name, _ in steps] == ["rules"] and "damaged" in fallbacks[0].why


def test_a_file_of_another_model_is_noticed_by_its_answers(tmp_path: Path) -> None:
    """Hashes hold, as somebody wrote a card for two files that do not belong together."""
    from klais.models.card import write_model
    from klais.traffic.backends import onnx_bytes
    from klais.traffic.features import NAMES

    files = {"trees.npz": some_trees(1).dump(), "model.onnx": onnx_bytes(some_trees(2))}
    write_model(tmp_path / "traffic" / "m1", files, {"kind": "traffic", "version": "m1", "features": list(NAMES)})
    steps, fallbacks = load_chain(store_of(tmp_path))
    assert [name for name, _ in steps] == ["scikit-learn", "rules"] and "other outputs" in fallbacks[0].why


def test_a_model_for_other_features_is_refused(tmp_path: Path) -> None:
    write_some(tmp_path, "m1", features=["rate"])
    steps, fallbacks = load_chain(store_of(tmp_path))
    assert [name for name, _ in steps] == ["rules"] and "other features" in fallbacks[0].why


def test_without_the_extra_scikit_learn_evaluates_and_nothing_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_some(tmp_path, "m1")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    steps, fallbacks = load_chain(store_of(tmp_path))
    assert [name for name, _ in steps] == ["scikit-learn", "rules"]
    assert [fall.optional for fall in fallbacks] == [True] and "not installed" in fallbacks[0].why


def test_another_model_is_taken_while_it_runs(tmp_path: Path) -> None:
    write_some(tmp_path, "m1")
    store = store_of(tmp_path)
    chain = ForecastChain(store)
    assert chain.predict(WINDOW).model == "rules", "until a model is loaded"
    assert chain.refresh() and not chain.refresh()
    assert chain.predict(WINDOW).model == "m1 (onnx)"
    write_some(store.new_folder("traffic", "m2").parent.parent, "m2", seed=2)
    store.activate("traffic", "m2")
    assert chain.refresh()
    assert chain.predict(WINDOW).model == "m2 (onnx)"
    damage(store.own, "m2", "trees.npz")
    store.activate("traffic", "m1")
    assert chain.refresh() and chain.predict(WINDOW).model == "m1 (onnx)"


class Failing:
    name = "failing"

    def run(self, x: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")


def test_a_model_that_fails_while_it_runs_is_left_out_and_counted(tmp_path: Path) -> None:
    write_some(tmp_path, "m1")
    observed = []

    def load(store: ModelStore) -> tuple[list, list]:
        steps, fallbacks = load_chain(store)
        return [("onnx", LearnedPredictor(Failing(), "m1")), *steps], fallbacks

    chain = ForecastChain(store_of(tmp_path), lambda model, seconds: observed.append(model), load)
    chain.refresh()
    assert chain.predict(WINDOW).model == "m1 (onnx)"
    assert [fall.model for fall in chain.fallbacks()] == ["m1 (failing)"] and "out of memory" in chain.fallbacks()[
        0
    ].why
    assert chain.fallbacks_total == 1 and observed == ["onnx"]
    chain.predict(WINDOW)
    assert chain.fallbacks_total == 1


def test_onnx_and_scikit_learn_agree(tmp_path: Path) -> None:
    write_some(tmp_path, "m1")
    (_, onnx), _ = load_chain(store_of(tmp_path))[0]
    damage(tmp_path, "m1", "model.onnx")
    (_, sklearn), _ = load_chain(store_of(tmp_path))[0]
    rng = np.random.default_rng(2)
    for size in (10, 30, 60):
        window = np.abs(rng.normal(500.0, 400.0, (size, len(FEATURES))))
        a, b = onnx.predict(window), sklearn.predict(window)
        assert a.kind == b.kind and a.probability == pytest.approx(b.probability, abs=1e-4)
        assert a.quantiles == pytest.approx(b.quantiles, rel=1e-4)


def test_onnx_gives_the_same_answers_for_one_row_and_for_many(tmp_path: Path) -> None:
    trees = some_trees(1)
    backend = OnnxBackend(onnx_bytes(trees), trees)
    rows = [backend.run(trees.probe[k : k + 1]) for k in range(len(trees.probe))]  # a later answer changes no earlier
    assert np.array_equal(np.concatenate(rows), backend.run(trees.probe))
    assert np.array_equal(backend.run(trees.probe[:1]), rows[0])


@pytest.mark.parametrize("value", [0.0, 1e12, np.inf, np.nan])
def test_it_is_a_forecast_whatever_comes(tmp_path: Path, value: float) -> None:
    write_some(tmp_path, "m1")
    for _, predictor in load_chain(store_of(tmp_path))[0]:
        forecast = predictor.predict(np.full((60, len(FEATURES)), value))
        assert 0.0 <= forecast.probability <= 1.0 and 0.0 <= forecast.confidence <= 1.0
        assert predictor.predict(WINDOW[:9]).probability == NOTHING.probability


def test_the_setting_chooses() -> None:
    assert isinstance(predictor_of(Settings()), ForecastChain)
    assert isinstance(predictor_of(Settings(forecast="trend")), TrendPredictor)
    assert isinstance(predictor_of(Settings(forecast="none")), NoPredictor)


def test_a_forecast_is_one_json_object() -> None:
    said = TrafficForecast(0.123456, 1.0, 1.0, "why", (1.04, 2.0, 3.0), "burst", 0.9, 5.0, "rules").public()
    assert said["quantiles"] == [1.0, 2.0, 3.0] and said["probability"] == 0.1235 and said["kind"] == "burst"


def test_a_model_is_loaded_when_a_window_is_worth_it_and_not_before(tmp_path: Path) -> None:
    write_some(tmp_path, "m1")
    asked: list[ModelStore] = []
    loaded = threading.Event()

    def load(store: ModelStore) -> tuple[list[tuple[str, Predictor]], list[Fallback]]:
        asked.append(store)
        loaded.set()
        return load_chain(store)

    chain = ForecastChain(store_of(tmp_path), load=load)
    chain.start()
    chain.predict(WINDOW[: MIN_FORECAST_ROWS // 2 - 1])
    assert not asked
    chain.predict(WINDOW[: MIN_FORECAST_ROWS // 2])
    assert loaded.wait(60 * PATIENCE)
    chain.stop()


def test_a_chain_that_never_loaded_ends(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    chain = ForecastChain(store_of(tmp_path))
    chain.start()
    chain.stop()
    assert set(threading.enumerate()) <= before
