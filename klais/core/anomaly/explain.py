"""A flag as one sentence with numbers: value, expected value and reason, how unusual, since when, how often."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from klais.core.anomaly.record import COUNTER, Cause, age_s

_EXPECTED_BECAUSE = {
    Cause.LEVEL: "its usual level",
    Cause.HOUR: "usual at this time of the day",
    Cause.JUMP: "the value before",
    Cause.RARE: "its mean; this level was hardly ever seen",
}
_KEYS = ("cause", "value", "expected", "score", "scale", "since", "before")
_OF_TYPE = {Cause.TYPE: "type", Cause.IMPERSONATION: "type", Cause.ODD: "fingerprint"}
MAX_SAMPLES = 250  # the highest number of sampled frames that a fingerprint counts
UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True, slots=True)
class FlagFacts:
    """One flag, as stored in journal and row. ``name`` is the feature's name, ``found`` replaces the number when there
    is none. For a flag about a type, ``found`` and ``usual`` are names of types, ``at_ns`` the frame's time."""

    name: str
    cause: int
    value: float
    expected: float
    score: float
    scale: float
    since: int
    before: int
    found: str = "missing"
    usual: str = ""
    at_ns: int = 0

    @classmethod
    def of_type(cls, flag: Any, at_ns: int, names: Mapping[int, str], prefix: str = "") -> "FlagFacts":
        """A flag about a device's type, from the journal or (``prefix``) from a row; ``names`` are the names of types
        by code."""
        facts = cls("type", **{key: flag[prefix + key].item() for key in _KEYS}, at_ns=at_ns)
        name = _OF_TYPE.get(facts.kind, "type")
        found, usual = (names.get(_code(value), "") for value in (facts.value, facts.expected))
        return replace(facts, name=name, found=found, usual=usual)

    @classmethod
    def of_row(cls, row: Any, name: str) -> "FlagFacts":
        """The newest flag of a device row."""
        return cls(name, **{key: row[f"flag_{key}"].item() for key in _KEYS})

    @classmethod
    def of_flag(cls, flag: Any, name: str, found: str = "missing") -> "FlagFacts":
        """A journalled flag."""
        return cls(name, found=found, **{key: flag[key].item() for key in _KEYS})

    @property
    def kind(self) -> Cause:
        """The cause without the counter bit; NONE if this version does not know it."""
        code = self.cause & ~COUNTER
        return Cause(code) if code in set(Cause) else Cause.NONE


def _code(value: float) -> int:
    return int(value) if 0 <= value < 1 << 32 else 0


def span(seconds: float) -> str:
    """A time span in readable units.

    Examples
    --------
    >>> span(7200.0), span(4.2), span(0.25)
    ('2 h', '4.2 s', '0.25 s')
    """
    for unit_s, unit in UNITS:
        if seconds >= 1.5 * unit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds:.3g} s"


def explain(flag: FlagFacts) -> str:
    """Explain a flag in one sentence.

    Examples
    --------
    >>> explain(FlagFacts("temperature", Cause.HOUR, 45.2, 21.3, 8.0, 0.4, 143, 2))
    'temperature was 45.2, expected about 21.3 ± 0.4 (usual at this time of the day): surprise 8, \
rarer than 1 row in 4,096; learned over 2.78 d; flagged 2 times before.'
    """
    return f"{_what(flag)}; {_history(flag)}."


def _what(flag: FlagFacts) -> str:
    name, kind, known = flag.name, flag.kind, span(age_s(flag.since))
    if kind == Cause.STUCK:
        still = "did not grow" if flag.cause & COUNTER else f"was {flag.value:.6g} and did not change"
        return f"{name} {still} for {known}, expected a change within {span(flag.scale)} or so"
    if kind == Cause.ABSENT:
        return (
            f"{name} was {flag.found} in {flag.score:.0f} frames in a row, expected a number as in all previous frames"
        )
    if kind == Cause.SILENCE:
        return f"the device sent nothing for {span(flag.value)}, expected a frame every {span(flag.expected)}"
    if kind == Cause.INTERVAL:
        than = "less" if flag.value > flag.expected else "more"
        text = f"the device sent {than} often: every {span(flag.value)}, expected every {span(flag.expected)}"
        return f"{text} (its own rhythm compared with that of the other devices): surprise {flag.score:.3g}"
    if kind in _OF_TYPE:
        return _type_text(flag, kind)
    if kind == Cause.ZSCORE:
        z = flag.score if flag.value >= flag.expected else -flag.score
        return f"{name} was {flag.value:.6g}, expected about {flag.expected:.6g} ({z:+.1f} standard deviations)"
    rate = " a second" if flag.cause & COUNTER else ""
    if kind == Cause.NOISE:
        wildest = f"in the most variable hour of the last days it was {flag.expected:.3g}"
        return f"{name} changed by about {flag.value:.3g}{rate} from row to row for an hour; {wildest}"
    because = _EXPECTED_BECAUSE.get(kind, "its usual level")
    seen = f"{name} {'grew by' if rate else 'was'} {flag.value:.6g}{rate}"
    expected = f"expected about {flag.expected:.6g} ± {flag.scale:.3g} ({because})"
    if kind == Cause.DRIFT:
        usual = f"its level at this time of the last days, {flag.expected:.6g} ± {flag.scale:.3g}"
        return f"{seen} and has been moving away for hours from {usual}"
    rare = min(flag.score**4, 1e12)
    return f"{seen}, {expected}: surprise {flag.score:.3g}, rarer than 1 row in {rare:,.0f}"


def _type_text(flag: FlagFacts, kind: Cause) -> str:
    """The sentence for a device that changed its type: to which type, since when, with what evidence."""
    at_s = flag.at_ns / 1e9
    at, began = (datetime.fromtimestamp(max(0.0, s), UTC) for s in (at_s, at_s - age_s(flag.since)))
    since = f"since {began:%H:%M} UTC" if began.date() == at.date() else f"since {began:%Y-%m-%d %H:%M} UTC"
    usual, found = flag.usual or "device", flag.found or "device of another type"
    frames = f"{MAX_SAMPLES} or more" if flag.scale >= MAX_SAMPLES else f"{flag.scale:.0f}"
    sure = f"(evidence {flag.score:.3g} nats in {frames} sampled frames)"
    if kind == Cause.ODD:
        return f"this {usual} sends what neither it nor any known type sends, {since} {sure}"
    article = "an" if found[:1].lower() in "aeiou" else "a"
    if kind == Cause.IMPERSONATION:
        return f"frames like those of {article} {found} come between those of this {usual}, {since} {sure}"
    return f"this {usual} behaves like {article} {found} {since} {sure}"


def _history(flag: FlagFacts) -> str:
    times = "never flagged before"
    if flag.before:
        times = f"flagged {flag.before if flag.before < 255 else '255 or more'} time{'s' * (flag.before > 1)} before"
    if flag.kind in (Cause.STUCK, Cause.ZSCORE, *_OF_TYPE) or not flag.since:
        return times
    return f"learned over {span(age_s(flag.since))}; {times}"
