"""``python -m bench llm [DIR] [--json]``: the language model on windows of later days, and on made-up incidents.

Share of windows with the right class, number of answers that are JSON of the grammar, time of an answer, and number of
grounded explanations by the model. ``ungrounded_sentences`` counts displayed sentences: must be 0.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from klais.config.load import load
from klais.control.forecast import CLASSES
from klais.language import phrases, text
from klais.language.explain import explain, open_model
from klais.language.grounding import ungrounded
from klais.traffic.bases import load_folder, shipped
from klais.traffic.training import f1, samples

SEED = 3
VALUES: dict[str, Any] = {
    "devices": 1203, "device": "thermo-17", "feature": "interval", "seen": 12.5, "expected": 60, "kind": "pause",
    "class": "thundering_herd", "since": "09:41:12", "until": "09:52:40", "first": "thermo-3", "worst": "pump-9",
    "partition": 4, "edge": "edge-2", "firmware": "2.1.7", "type": "thermostat", "score": 8.4, "before": 3,
    "members": ["thermo-3", "pump-9"],
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the benchmark; 1 without a language model."""
    parser = argparse.ArgumentParser("python -m bench llm", description=__doc__)
    parser.add_argument("traces", nargs="?", type=Path)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--incidents", type=int, default=200)
    given = parser.parse_args(arguments)
    model, name, why = open_model(load())
    if model is None:
        print(f"no language model: {why}")
        return 1
    late = [base.part("test") for base in (load_folder(given.traces) if given.traces else shipped())]
    drawn = samples(late, 60, SEED, test=True).with_class()
    chosen = np.random.default_rng(SEED).choice(len(drawn.x), min(given.windows, len(drawn.x)), replace=False)
    bins, labels = text.bins_of(drawn.x[chosen]), drawn.labels[chosen]
    said, took_ms, broken = [], [], 0
    try:
        model.ask("class", prompt=text.words_of(bins[0]) + text.ASK)  # loads the model
        for row in bins:
            began_s = time.perf_counter()
            answer = model.ask("class", prompt=text.words_of(row) + text.ASK)
            took_ms.append(1000 * (time.perf_counter() - began_s))
            try:
                said.append(CLASSES.index(json.loads(answer)["class"]))
            except (ValueError, KeyError, TypeError):
                said.append(-1)
                broken += 1
        figures = _explanations(model, name, given.incidents)
    finally:
        model.close()
    right = np.array(said) == labels
    figures |= {
        "model": name, "windows": len(labels), "accuracy": round(float(right.mean()), 4),
        "macro_f1": f1(labels, np.array(said))["macro_f1"], "not_json": broken,
        "answer_p50_ms": round(float(np.percentile(took_ms, 50)), 2),
        "answer_p99_ms": round(float(np.percentile(took_ms, 99)), 2),
    }  # fmt: skip
    targets = {"accuracy": figures["accuracy"] >= 0.9, "answer_p50_ms": figures["answer_p50_ms"] <= 50.0}
    figures["targets"] = targets | {"ungrounded_sentences": figures["ungrounded_sentences"] == 0}
    for key, value in figures.items():
        print(f"{key}: {value}")
    if given.json:
        print(json.dumps(figures))
    return 0


def _explanations(model: Any, name: str, incidents: int) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    own = wrong = 0
    for _ in range(incidents):
        names, _words = phrases.sample(rng)
        facts = {fact: VALUES[fact] for fact in names}
        found = explain(facts, model, name)
        own += found.by == name
        wrong += bool(ungrounded(found.text, facts)) and bool(facts)
    return {"incidents": incidents, "explained_by_model": own, "ungrounded_sentences": wrong}
