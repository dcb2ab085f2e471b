"""The language model in a real llama.cpp; and damaged, stopped, killed or without memory: the template says why."""

import importlib.util
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from klais.config.load import Settings
from klais.control.forecast import CLASSES
from klais.errors import ModelUnavailable
from klais.language import phrases, text
from klais.language.client import FAILURES, LanguageModel
from klais.language.explain import FILE, KIND, explain, open_model, template_text
from klais.language.grounding import ungrounded
from klais.models.store import ModelStore
from klais.traffic.bases import shipped
from klais.traffic.training import samples
from tests.support.needs import need_missing
from tests.support.process import PATIENCE

TIMEOUT_S = 10.0 * PATIENCE  # for an answer
FACTS = {"devices": 40, "feature": "interval", "seen": 12.5, "expected": 60, "since": "09:41:12"}
NONSENSE = ({"devices": 40}, {"device": "pump-9", "seen": 3}, {"kind": "x"})
WINDOWS, INCIDENTS = 60, 20


class Clock:
    """The monotonic clock, until it runs: from then on each look at it is an hour later."""

    def __init__(self) -> None:
        self.runs = False
        self._more_s = 0.0

    def __call__(self) -> float:
        self._more_s += 3600.0 * self.runs
        return time.monotonic() + self._more_s


@pytest.fixture(scope="module")
def engine() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        need_missing("llm", "xllamacpp is not installed")


@pytest.fixture(scope="module")
def own(engine: None) -> Iterator[LanguageModel]:
    model, _name, why = open_model(Settings(), TIMEOUT_S)
    assert model is not None, why
    yield model
    model.close()


def shipped_file() -> tuple[Path, str]:
    found = ModelStore.of(Settings()).candidates(KIND)[0]
    assert found.card is not None
    return found.folder / FILE, found.card.files[FILE]


def running(model: LanguageModel) -> int:
    assert model.pid is not None
    return model.pid


def test_a_file_that_is_no_model_is_a_template_and_then_a_breaker(engine: None, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF but nothing else")
    model = LanguageModel(path)
    try:
        for _ in range(FAILURES):
            found = explain(FACTS, model, "some")
            assert found.by == "template" and "cannot be loaded" in found.why
            assert "this GGUF file is version" in found.why, "llama.cpp's own reason"
        assert "times in a row" in explain(FACTS, model, "some").why
        assert model.pid is None
    finally:
        model.close()


def test_a_damaged_file_is_refused_before_anything_parses_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    model = LanguageModel(path, digest="0" * 64)
    with pytest.raises(ModelUnavailable, match="its hash is not the card's"):
        model.ask("class", prompt=text.ASK)
    model.close()


def test_it_names_the_class_of_windows_that_it_never_saw(own: LanguageModel) -> None:
    drawn = samples([base.part("test") for base in shipped()], 12, seed=5, test=True).with_class()
    chosen = np.random.default_rng(5).choice(len(drawn.x), WINDOWS, replace=False)
    said = [own.ask("class", prompt=text.words_of(row) + text.ASK) for row in text.bins_of(drawn.x[chosen])]
    truth = [{"class": CLASSES[at]} for at in drawn.labels[chosen]]
    right = [json.loads(answer) == expected for answer, expected in zip(said, truth, strict=True)]
    assert sum(right) >= 0.8 * WINDOWS, said


def test_it_explains_incidents_itself_and_says_nothing_but_the_facts(own: LanguageModel) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(INCIDENTS):
        facts = {name: f"{name}-{rng.integers(1000)}" for name in phrases.sample(rng)[0]}
        found.append(explain(facts, own, "own"))
        assert ungrounded(found[-1].text, facts) == []
        assert found[-1].by == "own" or found[-1].why
    assert sum(each.by == "own" for each in found) >= 0.8 * INCIDENTS, found


def test_it_explains_an_incident_of_the_fleet_which_names_no_device(own: LanguageModel) -> None:
    facts = {"feature": "frames_per_s", "seen": 2987.03, "expected": 312.27, "kind": "fleet", "score": 9.57}
    found = explain(facts | {"since": "2026-11-30T05:56:48Z"}, own, "own")
    assert found.by == "own" and "2987.03" in found.text and "312.27" in found.text, found
    assert not found.why


def test_a_model_that_talks_nonsense_is_replaced_by_the_template(engine: None) -> None:
    path, digest = shipped_file()
    model = LanguageModel(path, digest, timeout_s=TIMEOUT_S)  # asked as any other, it answers with words it knows
    try:
        for facts in NONSENSE:
            found = explain(facts, model, "some")
            assert found.by == "template" and found.why.startswith("the model's text ")
            assert found.text == template_text(facts)
    finally:
        model.close()


def test_nobody_but_its_owner_can_ask_it(own: LanguageModel) -> None:
    assert explain(FACTS, own, "own").by == "own"
    process = psutil.Process(running(own))
    assert process.net_connections("inet") == []
    sockets = [Path(process.cwd().removesuffix(" (deleted)"), each.laddr) for each in process.net_connections("unix")]
    assert sockets, "llama.cpp listens on one, even though nobody asked it to"
    assert not any(path.exists() for path in sockets), "its folder is gone, so nobody can connect"
    assert process.nice() == 19
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"


def test_a_killed_model_starts_again(own: LanguageModel) -> None:
    first = explain(FACTS, own, "own")
    assert first.by == "own" and ungrounded(first.text, FACTS) == []
    killed = running(own)
    os.kill(killed, signal.SIGKILL)
    assert explain(FACTS, own, "own").text
    assert explain(FACTS, own, "own").by == "own"
    assert running(own) != killed


def test_a_stopped_model_is_given_up_and_the_next_one_answers(engine: None) -> None:
    path, digest = shipped_file()
    clock = Clock()
    model = LanguageModel(path, digest, timeout_s=TIMEOUT_S, is_own=True, clock=clock)
    try:
        assert explain(FACTS, model, "own").by == "own"
        os.kill(running(model), signal.SIGSTOP)
        clock.runs = True
        stopped = explain(FACTS, model, "own")
        clock.runs = False
        assert stopped.by == "template" and "no answer within" in stopped.why
        assert stopped.text == template_text(FACTS) and model.pid is None
        assert explain(FACTS, model, "own").by == "own", "a new process answers"
    finally:
        model.close()


def test_a_model_that_finds_no_memory_at_its_start_is_a_template(engine: None) -> None:
    path, digest = shipped_file()
    model = LanguageModel(path, digest, timeout_s=TIMEOUT_S, is_own=True, max_bytes=128 << 20)
    try:
        found = explain(FACTS, model, "own")
        assert found.by == "template" and found.text == template_text(FACTS)
        assert "language model does not respond" in found.why
        assert model.pid is None
    finally:
        model.close()


def test_a_model_that_runs_out_of_memory_ends_and_the_next_one_answers(own: LanguageModel) -> None:
    assert explain(FACTS, own, "own").by == "own"
    starved = running(own)
    resource.prlimit(starved, resource.RLIMIT_AS, (1 << 20, 1 << 20))
    found = explain(FACTS | {"note": "x" * (16 << 20)}, own, "own")
    assert found.by == "template" and "does not respond" in found.why
    assert explain(FACTS, own, "own").by == "own" and running(own) != starved
