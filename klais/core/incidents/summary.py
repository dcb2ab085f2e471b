"""Common properties of many flags, in bounded memory. Partial summaries merge to that of the whole, in any order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, TypeGuard

from klais.system import shallow_json

MEMBERS = 128  # names kept; with more, their number is an estimate with a standard error of 9 %
FEW = 8  # features, partitions, edges and firmwares kept
MAX_TEXT_CHARS = 400  # characters of a text kept in a record
MAX_NUMBER = 253_402_300_799_999  # ms since the epoch that a calendar can represent; no count is larger
_SPACE = float(1 << 64)
MAX_COUNT = 1e12  # of an estimate: a foreign record may claim more names without any


@dataclass(frozen=True, slots=True)
class FlagSeen:
    """A flag as in ``klais_anomalies``. ``at_ms``: when Kafka appended it; ``explanation``: its sentence."""

    device: str
    feature: str
    cause: str
    at_ms: int
    score: float = 0.0
    value: float | None = None
    expected: float | None = None
    before: int = 0
    partition: int = 0
    edge: int | None = None
    firmware: str = ""
    explanation: str = ""

    @property
    def order(self) -> tuple[int, str, str, str]:
        """Sort key that selects the first of several flags."""
        return self.at_ms, self.device, self.feature, self.cause

    def record(self) -> dict[str, Any]:
        """The flag as JSON; :func:`flag_of` reads it."""
        return {name: getattr(self, name) for name in FlagSeen.__slots__}


def flag_of(record: Any) -> FlagSeen:
    """The flag that :meth:`FlagSeen.record` wrote.

    Raises
    ------
    ValueError
        If it is not a flag.
    """
    try:
        flag = FlagSeen(**{name: record[name] for name in FlagSeen.__slots__})
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is not a flag: {error!r}") from None
    texts = flag.device, flag.feature, flag.cause, flag.firmware, flag.explanation
    numbers = [flag.score, *(number for number in (flag.value, flag.expected) if number is not None)]
    if not all(map(_is_text, texts)) or not all(isinstance(n, int | float) for n in numbers):
        raise ValueError(f"this is not a flag: {record!r:.200}")
    check_whole(flag.at_ms, flag.before, flag.partition, flag.edge or 0)
    return flag


def check_whole(*numbers: Any) -> None:
    """Check that all numbers are counts or times that a calendar can represent.

    Raises
    ------
    ValueError
        If one is not.
    """
    for number in numbers:
        if not _is_whole(number):
            raise ValueError(f"{number!r:.40} is neither a count nor ms since the epoch")


def _is_whole(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and 0 <= number <= MAX_NUMBER


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= MAX_TEXT_CHARS


def read_flag(value: bytes | None, partition: int, at_ms: int) -> FlagSeen | None:
    """The flag in a record of ``klais_anomalies``; None for any other record, from any writer."""
    try:
        body = shallow_json.loads(value or b"")
    except ValueError:
        return None
    if not isinstance(body, dict) or body.get("kind") != "flag":
        return None
    texts = [body.get(name) for name in ("device_id", "feature", "cause")]
    score, edge, before = body.get("score"), body.get("edge"), body.get("before")
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(score, int | float):
        return None
    device, feature, cause = (str(text)[:MAX_TEXT_CHARS] for text in texts)
    return FlagSeen(
        device,
        feature,
        cause,
        min(max(0, at_ms), MAX_NUMBER),
        float(score),
        _number(body.get("value")),
        _number(body.get("expected")),
        before if _is_whole(before) else 0,
        partition,
        edge if _is_whole(edge) else None,
        str(body.get("firmware") or "")[:40],
        str(body.get("explanation") or "")[:MAX_TEXT_CHARS],
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def hash_of(name: str) -> int:
    """64-bit hash of a name; the same in every process."""
    return int.from_bytes(blake2b(name.encode(errors="replace"), digest_size=8).digest(), "big")


class Members:
    """A set of names in bounded memory: the names with the lowest hashes, and the total number of names.

    The number is exact up to ``MEMBERS``. Above, it is estimated from the highest hash kept (k minimum values,
    Bar-Yossef et al. 2002, algorithm 2).

    Parameters
    ----------
    names : iterable of str
        Initial names.
    more : bool
        Whether other names were left out.
    """

    def __init__(self, names: Iterable[str] = (), more: bool = False) -> None:
        self._hashes: dict[str, int] = {}
        self._last: tuple[int, str] | None = None  # the highest hash kept, once the set is full
        self._more = False
        for name in names:
            self.add(name)
        self._more |= more

    def __contains__(self, name: str) -> bool:
        return name in self._hashes

    def add(self, name: str) -> None:
        """Add a name."""
        if name in self._hashes:
            return
        at = hash_of(name)
        if len(self._hashes) >= MEMBERS:
            self._more = True
            last = self._last or max((known_at, known) for known, known_at in self._hashes.items())
            self._last = last
            if (at, name) > last:
                return
            del self._hashes[last[1]]
            self._last = None
        self._hashes[name] = at

    def merge(self, other: "Members") -> None:
        """Add all names of another set."""
        for name in other._hashes:
            self.add(name)
        self._more |= other._more

    @property
    def exact(self) -> bool:
        """Whether :attr:`count` is exact."""
        return not self._more

    @property
    def count(self) -> int:
        """Number of names."""
        if self.exact:
            return len(self._hashes)
        highest = max(self._hashes.values(), default=0) or 1
        return max(len(self._hashes) + 1, round(min(MAX_COUNT, (MEMBERS - 1) * _SPACE / highest)))

    def names(self) -> list[str]:
        """The names kept, sorted."""
        return sorted(self._hashes)


@dataclass(slots=True)
class Summary:
    """Summary of flags: number, directions (value above or below what was expected), first and worst, shared values.

    The tuples are sorted and hold at most ``FEW`` + 1 values; that many means that there are more.
    """

    flags: int
    up: int
    down: int
    newest_ms: int
    first: FlagSeen
    worst: FlagSeen
    members: Members
    features: tuple[str, ...]
    causes: tuple[str, ...]
    partitions: tuple[int, ...]
    edges: tuple[int, ...]
    firmwares: tuple[str, ...]

    @classmethod
    def of(cls, flag: FlagSeen) -> "Summary":
        """The summary of one flag."""
        more = 0.0 if flag.value is None or flag.expected is None else flag.value - flag.expected
        return cls(
            1,
            int(more > 0.0),
            int(more < 0.0),
            flag.at_ms,
            flag,
            flag,
            Members([flag.device] if flag.device else []),
            (flag.feature,),
            (flag.cause,),
            (flag.partition,),
            () if flag.edge is None else (flag.edge,),
            (flag.firmware,) if flag.firmware else (),
        )

    def merge(self, other: "Summary") -> None:
        """Add the flags of another summary."""
        self.flags, self.up, self.down = self.flags + other.flags, self.up + other.up, self.down + other.down
        self.newest_ms = max(self.newest_ms, other.newest_ms)
        self.first = min(self.first, other.first, key=_first)
        self.worst = min(self.worst, other.worst, key=_worst)
        self.members.merge(other.members)
        self.features, self.causes = _few(self.features, other.features), _few(self.causes, other.causes)
        self.partitions, self.edges = _few(self.partitions, other.partitions), _few(self.edges, other.edges)
        self.firmwares = _few(self.firmwares, other.firmwares)

    def not_after(self, at_ms: int) -> None:
        """Move all times after ``at_ms`` to it."""
        self.newest_ms = min(self.newest_ms, at_ms)
        self.first, self.worst = (replace(flag, at_ms=min(flag.at_ms, at_ms)) for flag in (self.first, self.worst))

    def copy(self) -> "Summary":
        """A copy that can merge without changing this one."""
        return replace(self, members=Members(self.members.names(), not self.members.exact))

    def record(self) -> dict[str, Any]:
        """The summary as JSON; :func:`summary_of` reads it."""
        out = {name: getattr(self, name) for name in _PLAIN}
        return out | {
            "first": self.first.record(),
            "worst": self.worst.record(),
            "members": self.members.names(),
            "more_members": not self.members.exact,
        }


_COUNTS, _TEXTS, _NUMBERS = (
    ("flags", "up", "down", "newest_ms"),
    ("features", "causes", "firmwares"),
    ("partitions", "edges"),
)
_PLAIN = (*_COUNTS, *_TEXTS, *_NUMBERS)


def summary_of(record: Any) -> Summary:
    """The summary that :meth:`Summary.record` wrote.

    Raises
    ------
    ValueError
        If it is not a summary.
    """
    try:
        counts: dict[str, Any] = {name: record[name] for name in _COUNTS}
        check_whole(*counts.values())
        texts: dict[str, Any] = {name: _tuple(record[name], _is_text, FEW + 1) for name in _TEXTS}
        numbers: dict[str, Any] = {name: _tuple(record[name], _is_whole, FEW + 1) for name in _NUMBERS}
        members = Members(_tuple(record["members"], _is_text, MEMBERS), record["more_members"] is True)
        first, worst = flag_of(record["first"]), flag_of(record["worst"])
        return Summary(first=first, worst=worst, members=members, **counts, **texts, **numbers)
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is not a summary of flags: {error!r}") from None


def _tuple(values: Any, is_one: Callable[[Any], bool], max_count: int) -> tuple[Any, ...]:
    if not (isinstance(values, list | tuple) and len(values) <= max_count and all(map(is_one, values))):
        raise ValueError(f"{values!r:.80} is not a list of at most {max_count} such values")
    return tuple(values)


def _first(flag: FlagSeen) -> Any:
    return *flag.order, flag.score, flag.explanation, str(flag)


def _worst(flag: FlagSeen) -> Any:
    return -flag.score, *flag.order, flag.explanation, str(flag)


def _few(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return a if a == b else tuple(sorted({*a, *b})[: FEW + 1])
