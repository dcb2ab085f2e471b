"""A language model that is damaged, stopped or killed: the template answers, soon, and says why."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.errors import ModelUnavailable
from klais.language.client import FAILURES, LanguageModel
from klais.language.explain import explain, open_model
from klais.language.grounding import ungrounded
from klais.language.text import ASK
from tests.support.needs import need_missing
from tests.support.process import PATIENCE

TIMEOUT_S = 10.0 * PATIENCE  # for an answer
FACTS = {"devices": 40, "feature": "interval", "seen": 12.5, "expected": 60, "since": "09:41:12"}
HAS_LLAMA = importlib.util.find_spec("llama_cpp") is not None  # compiling it takes minutes: bin/setup leaves it out


def test_a_file_that_is_no_model_is_a_template_and_then_a_breaker(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF but nothing else")
    model = LanguageModel(path)
    try:
        for _ in range(FAILURES):
            found = explain(FACTS, model, "some")
            assert found.by == "template" and "cannot be loaded" in found.why
        assert "times in a row" in explain(FACTS, model, "some").why
        assert model.pid is None
    finally:
        model.close()


def test_a_damaged_file_is_refused_before_anything_parses_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    model = LanguageModel(path, digest="0" * 64)
    with pytest.raises(ModelUnavailable, match="its hash is not the card's"):
        model.ask("class", prompt=ASK)
    model.close()


@pytest.fixture
def own() -> Iterator[LanguageModel]:
    model, _name, why = open_model(Settings(), TIMEOUT_S)
    assert model is not None, why
    if not HAS_LLAMA:
        need_missing("llm", "llama_cpp is not installed")
    yield model
    model.close()


def test_a_killed_model_starts_again_and_a_stopped_one_is_given_up(own: LanguageModel) -> None:
    first = explain(FACTS, own, "own")
    assert first.by == "own" and ungrounded(first.text, FACTS) == []
    assert own.pid is not None
    os.kill(own.pid, signal.SIGKILL)
    assert explain(FACTS, own, "own").text
    explain(FACTS, own, "own")
    pid = own.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    stopped = explain(FACTS, own, "own")
    assert stopped.by == "template" and "no answer within" in stopped.why
    assert explain(FACTS, own, "own").by == "own", "a new process answers"
