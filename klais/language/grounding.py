"""Checks that a text contains only facts: every number and every name must occur among them (pure).

It must also contain at least one fact, and no characters of an unfilled slot or template. A word is allowed if it is
one of the facts' own words, or an ordinary word of :data:`LEXICON`. Every other word counts as an invented name; number
words are not in the lexicon. So a text that passes may be clumsy, but each of its figures and names is from the facts.
"""

import re
from collections.abc import Mapping
from typing import Any

from klais.language.phrases import SENTENCES

# Words that are not facts.
_PLAIN = """
a about above after again against all almost already also although always among an and another any anybody anything are
as at be because been before began begin begins being below between but by came can cause caused changed changes clear
could data device devices did different do does during each edge edges end ended ends even ever every expected fact
facts fell few first for found frame frames from further has have here high higher highest how however if in incident
increase increased instead into is it its itself just known last late later less level likely long look looks low lower
lowest many mean means members might more most much must near never new no nor normal normally not nothing now of off
often on once only or other others out over own part partition perhaps place probably quite rate rather reached reason
reports rose same saw say says score seems seen send sends sent shows since so some something still such than that the
their them then there these they this those though through thus time times to together too traffic type under unknown
until up usual usually value values very was were what when where which while who why will with within without worst
would yet you your klais
"""
LEXICON = frozenset(_PLAIN.split()) | {
    word for _, ways in SENTENCES for way in ways for word in re.sub(r"\{\w+\}|[.,:]", " ", way).split()
}
_WORD = re.compile(r"[^\s,;:!?()\[\]{}\"'\u201c\u201d\u2019<>|=]+")
_STRIP = ".-%\u2026\u2013"
_SIGNS = "{}<>|"  # of slots, templates and JSON: prose has none
_NUMBER = re.compile(r"^[+-]?\d[\d._]*(e[+-]?\d+)?$")


def ungrounded(text: str, facts: Mapping[str, Any]) -> list[str]:
    """Words of a text that are neither in the facts nor in the lexicon, in order; empty if it is grounded.

    Examples
    --------
    >>> ungrounded("The rate of 40 devices is 12.5, usual is 50.", {"devices": 40, "seen": 12.5, "expected": 50.0})
    []
    >>> ungrounded("Forty devices in Berlin sent 41 frames.", {"devices": 40})
    ['Forty', 'Berlin', '41']
    >>> ungrounded("The score is {score}.", {"score": 4})
    ['{', '}']
    """
    words, numbers = _known(_texts(facts))
    out = [sign for sign in _SIGNS if sign in text and not any(sign in fact for fact in _texts(facts))]
    for found in _WORD.findall(_joined(text)):
        word = found.strip(_STRIP)
        if not word or word in words or word.lower() in LEXICON:
            continue
        number = _number(word)
        if number is None or number not in numbers:
            out.append(word)
    return out


def states_a_fact(text: str, facts: Mapping[str, Any]) -> bool:
    """Whether a text has at least one word or number of the facts' values (their names do not count).

    Examples
    --------
    >>> states_a_fact("The rate is 12.5.", {"rate": 12.5}), states_a_fact("The rate is high.", {"rate": 12.5})
    (True, False)
    """
    words, numbers = _known([said for value in facts.values() for said in _texts(value)])
    found = (word.strip(_STRIP) for word in _WORD.findall(_joined(text)))
    return any(word in words or _number(word) in numbers for word in found if word)


def _known(texts: list[str]) -> tuple[set[str], set[float]]:
    """Words and numbers of some texts."""
    words: set[str] = set()
    numbers: set[float] = set()
    for text in texts:
        for found in _WORD.findall(_joined(text)):
            word = found.strip(_STRIP)
            words |= {word, found}
            if (number := _number(word)) is not None:
                numbers.add(number)
    return words, numbers


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        names = [str(name).replace("_", " ") for name in value]
        return names + [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return [] if value is None else [as_text(value)]


def as_text(value: Any) -> str:
    """A fact as readable text.

    Examples
    --------
    >>> as_text(1203), as_text(0.25), as_text(12.0), as_text(["a", "b"]), as_text("dev-1")
    ('1203', '0.25', '12', 'a and b', 'dev-1')
    """
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        parts = [as_text(inner) for inner in value]
        return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else "none"
    return str(value)


def _joined(text: str) -> str:
    """The text without commas inside numbers: 1,203 is one word."""
    return re.sub(r"(?<=\d),(?=\d)", "_", text)


def _number(word: str) -> float | None:
    if not _NUMBER.match(word):
        return None
    try:
        return float(word.replace("_", ""))
    except ValueError:
        return None
