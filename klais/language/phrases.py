"""Sentences about the facts of an incident, with slots: the template, and the choices that the small model learns.

A slot such as ``{seen}`` stands for the fact of that name and is filled in afterwards. So a model that writes slots
cannot produce a wrong number; :mod:`klais.language.grounding` still checks the finished text.
"""

import re
from collections.abc import Collection

import numpy as np

# Facts that a sentence needs, and its variants; the template uses the first one.
SENTENCES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("devices", "feature", "seen", "expected"),
        (
            "the {feature} of {devices} devices is {seen} , usual is {expected} .",
            "{devices} devices changed together : {feature} is {seen} where {expected} is usual .",
        ),
    ),
    (
        ("device", "feature", "seen", "expected"),
        (
            "the {feature} of {device} is {seen} , usual is {expected} .",
            "{device} has {feature} {seen} where {expected} is usual .",
        ),
    ),
    (("kind",), ("klais calls this {kind} .", "the kind is {kind} .")),
    (("class",), ("the traffic looks like {class} .", "the class of the traffic is {class} .")),
    (("since",), ("it began at {since} .", "this has been so since {since} .")),
    (("until",), ("it ended at {until} .", "it was over at {until} .")),
    (("first", "worst"), ("the first was {first} , the worst is {worst} .", "{first} began , {worst} is worst .")),
    (("partition",), ("all of it is in partition {partition} .", "only partition {partition} has it .")),
    (("edge",), ("all of it came through edge {edge} .", "only edge {edge} has it .")),
    (("firmware",), ("all of them run firmware {firmware} .", "they have firmware {firmware} in common .")),
    (("type",), ("they are of type {type} .", "all of them are {type} .")),
    (("score",), ("the score is {score} .", "its score is {score} .")),
    (("before",), ("it happened {before} times before .", "klais saw this {before} times before .")),
    (("members",), ("among them are {members} .", "{members} are among them .")),
)
FACTS = tuple(dict.fromkeys(name for needs, _ in SENTENCES for name in needs))
BEGIN = "!"
_ONLY_ONE = {"device": "devices"}  # with several devices a single one is not mentioned


def usable(names: Collection[str]) -> list[tuple[str, ...]]:
    """The sentences that are possible with facts of these names, each with its variants."""
    return [ways for _needs, ways in _allowed(names)]


def expressible(names: Collection[str]) -> list[str]:
    """The names that can be used in a sentence, in their order in :data:`FACTS`.

    Examples
    --------
    >>> expressible({"feature", "seen", "expected", "score"}), expressible({"device", "feature", "seen", "expected"})
    (['score'], ['feature', 'seen', 'expected', 'device'])
    """
    needed = {name for needs, _ways in _allowed(names) for name in needs}
    return [name for name in FACTS if name in needed]


def _allowed(names: Collection[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    out = []
    for needs, ways in SENTENCES:
        other = _ONLY_ONE.get(needs[0])
        if all(name in names for name in needs) and (other is None or other not in names):
            out.append((needs, ways))
    return out


def template(names: Collection[str]) -> str:
    """The template's text with slots, from the first variant of each sentence.

    Examples
    --------
    >>> template({"devices", "feature", "seen", "expected", "since"})
    'the {feature} of {devices} devices is {seen} , usual is {expected} . it began at {since} .'
    """
    return " ".join(ways[0] for ways in usable(names))


def sample(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Names of some facts, and the words about them, for training."""
    names = [name for name in FACTS if rng.random() < 0.45]
    if "devices" not in names and rng.random() < 0.7:
        names = [name for name in FACTS if name in {*names, "device", "feature", "seen", "expected"}]
    words = [word for ways in usable(names) for word in ways[int(rng.integers(len(ways)))].split()]
    return names, words


def prompt_of(names: Collection[str]) -> str:
    """The prompt of the small model: the names of the facts, each as one word."""
    return BEGIN + "".join(fact_word(name) for name in FACTS if name in names) + ":"


def fact_word(name: str) -> str:
    """The word of a fact's name in the prompt."""
    return f"<{name}>"


def answer_words() -> list[str]:
    """Words of all sentences, with the space before each."""
    words = {word for _, ways in SENTENCES for way in ways for word in way.split()}
    return [f" {word}" for word in sorted(words)]


def finished(text: str) -> str:
    """The text with normal spaces and capitals.

    Examples
    --------
    >>> finished(" it began at {since} . the score is {score} , klais says .")
    'It began at {since}. The score is {score}, klais says.'
    """
    joined = re.sub(r"\s+([.,:])", r"\1", " ".join(text.split()))
    return re.sub(r"(^|[.] )([a-z])", lambda found: found[1] + found[2].upper(), joined)
