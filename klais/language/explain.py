"""Explains an incident in plain language: by a language model that keeps to the facts, else by a template."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from klais.config.load import Settings
from klais.errors import KlaisError, ModelUnavailable
from klais.language import phrases
from klais.language.client import TIMEOUT_S, LanguageModel
from klais.language.grounding import as_text, states_a_fact, ungrounded
from klais.language.vocabulary import tokens
from klais.models.store import ModelStore
from klais.system.paths import from_home

KIND = "language"
FILE = "model.gguf"


@dataclass(frozen=True, slots=True)
class Explanation:
    """``text`` in plain language, its author ``by`` (a model's name or ``template``), and ``why`` no better one."""

    text: str
    by: str
    why: str = ""


def template_text(facts: Mapping[str, Any]) -> str:
    """The template's text: known facts in sentences, the others as a list."""
    return _with_the_rest(phrases.template(_known(facts)), facts) or "Nothing is known."


def _known(facts: Mapping[str, Any]) -> list[str]:
    return [name for name in phrases.FACTS if facts.get(name) not in (None, "", [])]


def _with_the_rest(text: str, facts: Mapping[str, Any]) -> str:
    """A text with filled slots, followed by the facts without a slot."""
    rest = {name: value for name, value in facts.items() if "{" + name + "}" not in text and _plain(value)}
    others = ", ".join(f"{name.replace('_', ' ')} {as_text(value)}" for name, value in rest.items())
    return " ".join(part for part in (filled(text, facts), f"Also: {others}." if others else "") if part)


def filled(text: str, facts: Mapping[str, Any]) -> str:
    """The text with filled slots, spaces and capitals.

    Raises
    ------
    KeyError
        If a slot is not a fact.
    """
    return re.sub(r"\{([^{}]*)\}", lambda slot: as_text(facts[slot[1]]), phrases.finished(text))


def explain(facts: Mapping[str, Any], model: LanguageModel | None, name: str = "model") -> Explanation:
    """Explain an incident.

    Parameters
    ----------
    facts : mapping
        Names and values, as in the incident's record.
    model : LanguageModel or None
        None = the template.
    """
    if model is None:
        return Explanation(template_text(facts), "template", "no language model")
    try:
        raw = model.ask("explain", names=phrases.expressible(_known(facts)), facts=dict(facts)).strip()
        text = _with_the_rest(raw, facts) if model.is_own and raw else " ".join(raw.split())
    except ModelUnavailable as error:
        return Explanation(template_text(facts), "template", f"the language model does not respond: {error}")
    except KeyError as error:
        return Explanation(template_text(facts), "template", f"the model named an unknown fact: {error}")
    if not text:
        return Explanation(template_text(facts), "template", "the model returned no text")
    if wrong := ungrounded(text, facts):
        said = ", ".join(repr(word) for word in wrong[:5])
        return Explanation(
            template_text(facts), "template", f"the model's text has words that are not in the facts: {said}"
        )
    if not states_a_fact(text, facts):
        return Explanation(template_text(facts), "template", "the model's text contains none of the facts")
    return Explanation(text, name)


def open_model(settings: Settings, timeout_s: float = TIMEOUT_S) -> tuple[LanguageModel | None, str, str]:
    """The model that ``KLAIS_LLM`` selects, its name, and why there is none."""
    if settings.llm == "none":
        return None, "", "KLAIS_LLM is none"
    if settings.llm != "own":
        path = from_home(settings.llm)
        if not path.is_file():
            return None, "", f"{path} (KLAIS_LLM) is not a file"
        return LanguageModel(path, timeout_s=timeout_s), path.name, ""
    why = "there is no language model"
    for found in ModelStore.of(settings).candidates(KIND):
        try:
            found.read(FILE)
        except KlaisError as error:
            why = str(error)
            continue
        assert found.card is not None, "read() refuses a model without"
        words = found.card.about.get("words")
        if words != len(tokens()):
            why = f"{found.folder} has {words} words, this version of KLAIS has {len(tokens())}: train it again"
            continue
        digest = found.card.files[FILE]
        return LanguageModel(found.folder / FILE, digest, timeout_s=timeout_s, is_own=True), found.version, ""
    return None, "", why


def _plain(value: Any) -> bool:
    return value not in (None, "", []) and not isinstance(value, Mapping)
