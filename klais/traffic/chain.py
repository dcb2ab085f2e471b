"""The forecast of the controller: ONNX Runtime, else scikit-learn, else rules; each fallback is logged and counted.

A thread loads the models and checks every few seconds whether another one was activated, so that neither a slow disk
nor an import blocks the event loop. It starts when a window has half the rows that a forecast needs, so that a worker
that does not lead imports no model libraries, which need 40 MB. Until a model is loaded, the rules are used.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from klais.config.load import Settings
from klais.control.forecast import MIN_FORECAST_ROWS, NoPredictor, Predictor, TrafficForecast, TrendPredictor, Window
from klais.errors import KlaisError, ModelRefused
from klais.models.store import Model, ModelStore
from klais.telemetry import log as logs
from klais.traffic.backends import Backend, OnnxBackend, SklearnBackend
from klais.traffic.features import NAMES
from klais.traffic.predictor import KIND, OUTPUTS, LearnedPredictor, RulesPredictor
from klais.traffic.trees import Trees

log = logs.get("klais.traffic.chain")

CHECK_S = 5.0  # between two checks of the active model
STOP_S = 2.0
NOT_INSTALLED = "not installed"

Observe = Callable[[str, float], None]


def _ignore(_model: str, _seconds: float) -> None:
    """Does nothing."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A skipped step of the chain: ``model`` and backend, ``why``. ``optional``: nothing is broken, only an extra is
    not installed."""

    model: str
    why: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class _Loaded:
    steps: tuple[tuple[str, Predictor], ...]
    fallbacks: tuple[Fallback, ...]
    stamp: tuple[str | None, int]


def load_chain(store: ModelStore) -> tuple[list[tuple[str, Predictor]], list[Fallback]]:
    """The working steps, best first, and the failed ones; the rules are always the last step."""
    steps: list[tuple[str, Predictor]] = []
    fallbacks: list[Fallback] = []
    for model in store.candidates(KIND):
        try:
            trees = trees_of(model)
        except KlaisError as error:
            fallbacks.append(Fallback(model.version, str(error)))
            continue
        for name, make in (("onnx", _onnx), ("scikit-learn", _sklearn)):
            try:
                steps.append((name, LearnedPredictor(make(model, trees), model.version)))
                break
            except ImportError as error:
                why = f"{error.name or error} is {NOT_INSTALLED}"
                fallbacks.append(Fallback(f"{model.version} ({name})", why, optional=True))
            except Exception as error:  # native libraries may raise any exception
                fallbacks.append(Fallback(f"{model.version} ({name})", str(error)))
    if not steps and not fallbacks:
        fallbacks.append(Fallback(KIND, "there is no model", optional=True))
    return [*steps, ("rules", RulesPredictor())], fallbacks


def trees_of(model: Model) -> Trees:
    """The trees of a model.

    Raises
    ------
    ModelRefused
        If they are damaged, or were trained for other features than this version of KLAIS computes.
    """
    data = model.read("trees.npz")
    features = model.card.about.get("features") if model.card else None
    if features != list(NAMES):
        raise ModelRefused(f"{model.folder} was trained for other features than this version computes: train it again")
    return Trees.load(data, len(NAMES), OUTPUTS)


def _onnx(model: Model, trees: Trees) -> Backend:
    if model.card is not None and "model.onnx" not in model.card.files:
        raise ImportError("the model was trained without the package onnx", name="model.onnx")
    return OnnxBackend(model.read("model.onnx"), trees)


def _sklearn(_model: Model, trees: Trees) -> Backend:
    return SklearnBackend(trees)


Load = Callable[[ModelStore], tuple[list[tuple[str, Predictor]], list[Fallback]]]


class ForecastChain:
    """See the module. :meth:`predict` belongs to one thread.

    Parameters
    ----------
    store : ModelStore
        Store of the models.
    observe : callable
        Called with the name of the step and the duration of each forecast (s).
    load : callable
        Returns steps and fallbacks for a store.
    """

    def __init__(self, store: ModelStore, observe: Observe = _ignore, load: Load = load_chain) -> None:
        self._store, self._observe, self._load = store, observe, load
        self._loaded = _Loaded((("rules", RulesPredictor()),), (), (None, -1))
        self._reported: set[Fallback] = set()
        self._stop, self._wanted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="models", daemon=True)
        self.fallbacks_total = 0

    def start(self) -> None:
        """Start waiting for a window that needs a model; returns immediately."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    @property
    def step(self) -> str:
        """The step in use: ``onnx``, ``scikit-learn`` or ``rules``."""
        return self._loaded.steps[0][0]

    def fallbacks(self) -> list[Fallback]:
        """Reasons why better steps are not in use."""
        return list(self._loaded.fallbacks)

    def predict(self, window: Window) -> TrafficForecast:
        """See :class:`~klais.control.forecast.Predictor`. A failed step is skipped until a model is activated."""
        if 2 * len(window) >= MIN_FORECAST_ROWS:
            self._wanted.set()
        loaded = self._loaded
        for at, (name, predictor) in enumerate(loaded.steps):
            began_s = time.perf_counter()
            try:
                forecast = predictor.predict(window)
            except Exception as error:  # the controller continues after any error of a model
                fallback = Fallback(f"{getattr(predictor, 'name', name)}", f"it failed: {error!r}")
                rest = loaded.steps[at + 1 :]
                if not rest:
                    raise
                self._report([fallback])
                self._loaded = _Loaded(rest, (*self._loaded.fallbacks, fallback), loaded.stamp)
                continue
            self._observe(name, time.perf_counter() - began_s)
            return forecast
        raise AssertionError("the rules are always there")

    def refresh(self) -> bool:
        """Load again if another model was activated; whether it did."""
        stamp = self._store.stamp(KIND)
        if stamp == self._loaded.stamp:
            return False
        steps, fallbacks = self._load(self._store)
        self._report(fallbacks)
        self._loaded = _Loaded(tuple(steps), tuple(fallbacks), stamp)
        log.info("forecast_model_loaded", step=steps[0][0], model=getattr(steps[0][1], "name", steps[0][0]))
        return True

    def _report(self, fallbacks: list[Fallback]) -> None:
        """Log and count each fallback once per process."""
        self.fallbacks_total += len(fallbacks)
        for fallback in fallbacks:
            if fallback not in self._reported:
                self._reported.add(fallback)
                write = log.info if fallback.optional else log.warning
                means = "the next in the chain is used"
                write("forecast_model_skipped", model=fallback.model, why=fallback.why, means=means)

    def _watch(self) -> None:
        self._wanted.wait()
        while not self._stop.is_set():
            try:
                self.refresh()
            except Exception as error:
                if logs.every(60, "klais.traffic.chain"):
                    log.warning("models_not_read", error=repr(error))
            self._stop.wait(CHECK_S)


def predictor_of(settings: Settings, observe: Observe = _ignore) -> Predictor:
    """The predictor that ``KLAIS_FORECAST`` selects; a :class:`ForecastChain` is not started yet."""
    if settings.forecast == "none":
        return NoPredictor()
    if settings.forecast == "trend":
        return TrendPredictor()
    return ForecastChain(ModelStore.of(settings), observe)
