"""``python -m bench loop [--json]``: the control loop with the learned forecast, with the trend and with none.

The controller's decision, the forecasts and the token buckets are the real ones; edge, topic and worker are a model in
virtual time (``plant.py``). So the result is the same on every machine, however busy it is. Herds of 1,000 to 100,000
devices, overload of 1.4 and 2 times the capacity, recorded traffic, and floods. Each row has the good frames that were
dropped and the time from arrival at the edge to the worker's output. ``worse_than_trend`` and ``worse_than_none`` count
the rows and figures (dropped, p99) in which the learned forecast is worse, ``better_than_...`` those in which it is
better.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.cases.loop.loads import loads
from bench.cases.loop.plant import TICK_S, Load, Loop
from bench.harness.report import Result
from klais.config.load import Settings
from klais.control.forecast import NoPredictor, Predictor, TrendPredictor
from klais.models.store import ModelStore
from klais.traffic.backends import OnnxBackend, SklearnBackend
from klais.traffic.chain import trees_of
from klais.traffic.predictor import KIND, LearnedPredictor

RIVALS = ("trend", "none")
SAME_SHARE, SAME_MS = 0.0005, 1000 * TICK_S  # of the frames, and one tick: smaller differences do not count
SAME_RATIO = 1.02


def learned(settings: Settings) -> Predictor:
    """The active model; by scikit-learn if ONNX Runtime is not installed."""
    model = next(m for m in ModelStore.of(settings).models(KIND) if m.active)
    trees = trees_of(model)
    try:
        return LearnedPredictor(OnnxBackend(model.read("model.onnx"), trees), model.version)
    except ImportError:
        return LearnedPredictor(SklearnBackend(trees), model.version)


def run(settings: Settings, of: Sequence[Load], say: Callable[[str], None] = lambda text: None) -> Result:
    """All loads with all forecasts."""
    result = Result("loop")
    ways: dict[str, Predictor] = {"learned": learned(settings), "trend": TrendPredictor(), "none": NoPredictor()}
    for load in of:
        rows = {}
        for how, predictor in ways.items():
            loop = Loop(load, predictor, settings)
            figures = loop.run().figures()
            cut = max(decision.cut.cut for decision in loop.decisions[int(load.from_s / settings.pid_period_s) :])
            rows[how] = {"load": load.name, "forecast": how} | figures | {"largest_cut": cut}
            result.rows.append(rows[how])
            say("  ".join(f"{name}={value}" for name, value in rows[how].items()))
        for rival in RIVALS:
            for name, value in compare(rows["learned"], rows[rival]).items():
                result.figures[f"{name}_than_{rival}"] = result.figures.get(f"{name}_than_{rival}", 0) + value
    result.notes.append(f"worse or better: by more than {SAME_SHARE:g} of the frames, or {SAME_MS:g} ms and 2 % of p99")
    return result


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, int]:
    """How many of the two figures are worse, and better.

    Examples
    --------
    >>> compare({"dropped_share": 0.1, "p99_ms": 40}, {"dropped_share": 0.0, "p99_ms": 900})
    {'worse': 1, 'better': 1}
    """
    out = {"worse": 0, "better": 0}
    for name, least, ratio in (("dropped_share", SAME_SHARE, 1.0), ("p99_ms", SAME_MS, SAME_RATIO)):
        a, b = ours[name], theirs[name]
        out["worse"] += a > b * ratio + least
        out["better"] += b > a * ratio + least
    return out


def main(arguments: list[str]) -> int:
    """Run the benchmark; the last line is one JSON object with ``--json``."""
    parser = argparse.ArgumentParser("python -m bench loop", description=__doc__)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--few", action="store_true", help="one load of each kind")
    given = parser.parse_args(arguments)
    began_s = time.monotonic()
    result = run(Settings(), loads(given.few), lambda text: print(text, flush=True))
    result.seconds = time.monotonic() - began_s
    print(result.text())
    if given.json:
        print(json.dumps(result.public()))
    return 0
