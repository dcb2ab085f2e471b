"""What a text about an incident may say, and what stands there when a model says anything else."""

import numpy as np
import pytest

from klais.errors import ModelUnavailable
from klais.language import phrases
from klais.language.explain import explain, filled, template_text
from klais.language.grounding import ungrounded
from klais.language.vocabulary import ids, tokens

FACTS = {
    "devices": 1203, "feature": "interval", "seen": 12.5, "expected": 60.0, "since": "2026-11-29T09:41:12Z",
    "first": "thermo-17", "worst": "thermo-3", "partition": 4, "region": "north",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The interval of 1,203 devices is 12.5, usual is 60.", []),
        ("The interval of 1203 devices is 12.50, usual is 60.0.", []),
        ("It began at 2026-11-29T09:41:12Z with thermo-17.", []),
        ("The interval of 1,204 devices is 12.5.", ["1_204"]),
        ("The interval of 1 devices is 12.5.", ["1"]),
        ("Devices in Berlin failed.", ["Berlin", "failed"]),
        ("thermo-18 is worst.", ["thermo-18"]),
        ("Twelve devices changed.", ["Twelve"]),
        ("It fell by 79 %.", ["79"]),
    ],
)
def test_every_number_and_name_is_from_the_facts(text: str, wrong: list[str]) -> None:
    assert ungrounded(text, FACTS) == wrong


def test_the_template_says_all_facts_and_nothing_else() -> None:
    said = template_text(FACTS)
    assert ungrounded(said, FACTS) == []
    for value in ("1203", "12.5", "60", "thermo-17", "thermo-3", "north"):
        assert value in said
    assert template_text({}) == "Nothing is known."


def test_every_text_that_phrases_can_make_is_grounded() -> None:
    rng = np.random.default_rng(1)
    values = {name: f"v-{name}" for name in phrases.FACTS}
    for _ in range(200):
        names, words = phrases.sample(rng)
        facts = {name: values[name] for name in names}
        assert ungrounded(filled(" ".join(words), facts), facts) == []


class Says:
    """A model that answers with a text, or fails."""

    def __init__(self, text: str | Exception, own: bool = False) -> None:
        self._text, self.is_own = text, own
        self.names: object = None

    def ask(self, task: str, **given: object) -> str:
        self.names = given["names"]
        if isinstance(self._text, Exception):
            raise self._text
        return self._text


def test_a_grounded_text_is_used_and_any_other_is_replaced() -> None:
    good = explain(FACTS, Says("The interval of 1203 devices is 12.5."), "some.gguf")  # type: ignore[arg-type]
    assert (good.text, good.by) == ("The interval of 1203 devices is 12.5.", "some.gguf")
    bad = explain(FACTS, Says("The server in Oslo burns."), "some.gguf")  # type: ignore[arg-type]
    assert bad.by == "template" and "'Oslo'" in bad.why and bad.text == template_text(FACTS)


@pytest.mark.parametrize("said", [".", "The value is higher than usual.", '"} the score is {score} .', "<|end|> 12.5"])
def test_a_text_that_says_no_fact_or_has_an_empty_slot_is_replaced(said: str) -> None:
    found = explain(FACTS, Says(said), "some.gguf")  # type: ignore[arg-type]
    assert found.by == "template" and found.why and found.text == template_text(FACTS)


def test_slots_are_filled_and_a_slot_without_a_fact_is_refused() -> None:
    said = Says(" the {feature} of {devices} devices is {seen} .", own=True)
    good = explain(FACTS, said, "own")  # type: ignore[arg-type]
    assert good.by == "own" and good.text.startswith("The interval of 1203 devices is 12.5. Also: expected 60, since")
    assert "region north" in good.text, "what the model left out is listed"
    bad = explain(FACTS, Says(" the score is {score} .", own=True), "own")  # type: ignore[arg-type]
    assert bad.by == "template" and "score" in bad.why


def test_a_fact_that_looks_like_a_slot_is_not_filled_in() -> None:
    assert filled("{device} is {seen} .", {"device": "{seen}", "seen": 3}) == "{seen} is 3."


def test_the_model_reads_only_names_of_facts_that_a_sentence_can_say() -> None:
    fleet = {"feature": "frames_per_s", "seen": 2987.0, "expected": 312.0, "kind": "fleet", "score": 9.57}
    said = Says(" the kind is {kind} . its score is {score} .", own=True)
    found = explain(fleet, said, "own")  # type: ignore[arg-type]
    assert said.names == ["kind", "score"], "feature, seen and expected need a device"
    assert found.text == "The kind is fleet. Its score is 9.57. Also: feature frames_per_s, seen 2987, expected 312."


@pytest.mark.parametrize("model", [None, Says(ModelUnavailable("busy")), Says("")])
def test_without_an_answer_the_template_says_why(model: Says | None) -> None:
    found = explain(FACTS, model)  # type: ignore[arg-type]
    assert found.by == "template" and found.why and found.text == template_text(FACTS)


def test_each_word_is_one_token() -> None:
    assert len(ids()) == len(tokens()), "no word occurs twice"
