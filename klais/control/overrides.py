"""Writes overrides. A new request keeps the fields that it does not name: the stored record is read first. Blocking,
for commands.

Several workers, edges and commands may write the same scope at once, and Kafka has no compare-and-swap. So a writer
reads its record back, with the one that it replaced. Where that is not the record that it started from, it writes the
other's fields again: the result is as if the two had written one after the other, in the order of the topic.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import orjson
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.control.setpoints import DEVICE, OVERRIDE, ControlFollower
from klais.errors import ChangedMeanwhile, KafkaUnavailable
from klais.kafka.probe import need_kafka
from klais.kafka.stats import ControlProducer
from klais.system.clock import now_ms
from klais.system.shared_clock import TOLERANCE_S
from klais.telemetry.log import get

log = get("klais.control.overrides")

READ_S = 10.0
REFUSED_S = 1.5  # Kafka refuses a new topic for a moment
END_FIELDS = ("until_ms", "limits_until_ms")
READ_BACK_S = 3.0
MAX_TRIES = 8  # a try fails only if yet another writer was faster
ABOUT = frozenset({"scope", "author", "reason", "at", "by", "term"})
"""Fields that say who wrote a record; the others set something."""


@contextmanager
def following(settings: Settings) -> Iterator[ControlFollower]:
    """Yield a follower that has read the whole topic.

    Raises
    ------
    KafkaUnavailable
        If no broker listens at the configured address, or the topic was not read within 10 s.
    """
    need_kafka(settings)
    follower = ControlFollower(settings)
    follower.start()
    try:
        until_s = time.monotonic() + READ_S
        while not follower.wait_caught_up(0.25):
            what = f"topic {follower.topic} at {settings.bootstrap} ({settings.origin('kafka_bootstrap')})"
            if follower.refused and time.monotonic() > until_s - READ_S + REFUSED_S:
                fix = "`klais topics check` lists missing topics, `klais topics create` creates them"
                raise KafkaUnavailable(f"{what} cannot be read: {follower.refused}. {fix}")
            if time.monotonic() > until_s:
                raise KafkaUnavailable(f"{what} could not be read within {READ_S:g} s")
        yield follower
    finally:
        follower.stop()


def until(for_s: float | None) -> int | None:
    """The time ``for_s`` seconds from now (epoch ms); None stays None."""
    return None if for_s is None else now_ms() + int(for_s * 1000)


def blocking(for_s: float | None) -> dict[str, Any]:
    """The changes that block a device or a source for so long; None = until it is unblocked."""
    return {"block": True, "unblock": None, "until_ms": until(for_s)}


def unblocking() -> dict[str, Any]:
    """The changes that end such a block, and keep the controller from blocking again."""
    return {"block": None, "unblock": True, "until_ms": None}


class Writer(Protocol):
    """Writes changes (:class:`klais.kafka.stats.ControlProducer`)."""

    def change(
        self, scope: str, record: Mapping[str, Any], before: Mapping[str, Any] | None, address: str = ""
    ) -> int | None: ...


def apply(
    control: ControlFollower,
    writer: Writer,
    scope: str,
    changes: dict[str, Any],
    author: str,
    reason: str,
    address: str = "",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the record of a scope and return it before and after: ``changes`` replace fields, None removes one.

    Blocks until Kafka has acknowledged the record and ``control`` has read it back. A record that another process wrote
    in between keeps its other fields. If the clock of this host is wrong, ends are written again by Kafka's clock:
    otherwise a block of some minutes might never be in force.

    Raises
    ------
    confluent_kafka.KafkaException
        If Kafka did not acknowledge the record, which is then not in force.
    ChangedMeanwhile
        If other processes change the scope all the time.
    """
    with control.watch(scope) as watch:
        expected, changed = watch.first or {}, changes
        before = (control.override() if scope == OVERRIDE else watch.first) or {}
        replaced, record = before, merged(before, changes) | {"author": author, "reason": reason, "at": now_ms()}
        for attempt in range(MAX_TRIES):
            stored = {"scope": scope, **record}
            offset = writer.change(scope, stored, replaced, address)
            control.wrote(scope, orjson.dumps(stored), offset)
            if offset is None or not control.running:
                return before, record
            if not control.wait_read(offset, READ_BACK_S):
                log.warning("change_not_read_back", scope=scope, offset=offset, means="another's may be overwritten")
                return before, record
            other = watch.before(offset) or {}
            lost = overwritten(expected, other, record, changes)
            newest = control.record(scope) or {}
            changes = {name: value for name, value in lost.items() if newest.get(name) == record.get(name)}
            if not changes and not attempt:
                changes = _ends_by_kafkas_clock(record, changed, watch.ahead_ms(offset, record["at"]))
            if not changes:
                return before, record
            if lost:
                log.info("change_merged", scope=scope, by=author, other=other.get("author"), fields=sorted(changes))
            before = before if attempt else other
            expected = replaced = newest
            record = merged(newest, changes) | {"at": now_ms()}
        who = other.get("author", "another process")
        raise ChangedMeanwhile(f"{who} changes {scope} at the same time: check the values in force and try again", who)


def _ends_by_kafkas_clock(record: dict[str, Any], changed: dict[str, Any], ahead_ms: int) -> dict[str, Any]:
    """The ends that ``changed`` has set, by Kafka's clock; empty if the clock of this host is right."""
    ends = {name: record[name] - ahead_ms for name in END_FIELDS if changed.get(name) is not None and name in record}
    if not ends or abs(ahead_ms) <= TOLERANCE_S * 1000:
        return {}
    way = "ahead of" if ahead_ms > 0 else "behind"
    why = f"the clock of this host is {abs(ahead_ms) / 1000:.0f} s {way} Kafka's: check its time service"
    log.warning("ends_corrected", fields=sorted(ends), why=why)
    return ends


class Unread:
    """A change by a writer that cannot wait until it has read its record back, as the controller: it looks later.

    Parameters
    ----------
    control : ControlFollower
        Reads the topic.
    scope : str
        What is changed.
    changes : dict
        As in :func:`apply`.

    Attributes
    ----------
    before : dict
        The record to start from.
    offset : int
        Where it was written; -1 = unknown.
    """

    def __init__(self, control: ControlFollower, scope: str, changes: dict[str, Any]) -> None:
        self.scope, self._control, self._changes = scope, control, changes
        self._watching = ExitStack()
        self._watch = self._watching.enter_context(control.watch(scope))
        self.before = self._watch.first or {}
        self._record: dict[str, Any] = {}
        self.offset, self._polls = -1, 0

    def wrote(self, record: dict[str, Any], offset: int) -> None:
        """The record was written at ``offset``; -1 = unknown. An empty one: it was removed."""
        self._record, self.offset = record, offset

    def close(self) -> None:
        """It was not written."""
        self._watching.close()

    def repair(self) -> dict[str, Any] | None:
        """The record to write now, because the first one overwrote fields of another writer; empty if none is needed,
        None if the topic has not been read so far: look again."""
        self._polls += 1
        if self.offset >= 0 and not self._control.wait_read(self.offset, 0.0) and self._polls < MAX_TRIES:
            return None
        other = self._watch.before(self.offset) or {}
        self._watching.close()
        newest = self._control.record(self.scope) or {}
        if not self._record:
            return other.copy() if other != self.before and not newest else {}
        lost = overwritten(self.before, other, self._record, self._changes)
        owed = {name: value for name, value in lost.items() if newest.get(name) == self._record.get(name)}
        return merged(newest, owed) if owed else {}


def overwritten(
    expected: dict[str, Any], other: dict[str, Any], record: dict[str, Any], changes: dict[str, Any]
) -> dict[str, Any]:
    """The fields of ``other`` that ``record`` overwrote without knowing them; None for one that ``other`` removed.

    Parameters
    ----------
    expected : dict
        The record that the writer started from.
    other : dict
        The record that it replaced.
    record, changes : dict
        What it wrote, and which fields it meant to change: these are not lost.

    Examples
    --------
    >>> overwritten({"rate": 5}, {"rate": 5, "block": True}, {"rate": 7}, {"rate": 7})
    {'block': True}
    """
    out: dict[str, Any] = {}
    for name in sorted({*expected, *other} - ABOUT):
        theirs, mine, was = other.get(name), changes.get(name), expected.get(name)
        if isinstance(theirs, dict) and isinstance(mine, dict):  # gains, setpoints: merged field by field
            known = was if isinstance(was, dict) else {}
            parts = {part: value for part, value in theirs.items() if part not in mine and known.get(part) != value}
            out |= {name: parts} if parts else {}
        elif name not in changes and theirs != was and theirs != record.get(name):
            out[name] = theirs
    return out


def write(
    settings: Settings,
    scope: str,
    changes: dict[str, Any],
    author: str,
    reason: str,
    check: Callable[[ControlFollower], object] | None = None,
) -> dict[str, Any]:
    """As :func:`apply`, for a command without a follower. Return the written record. ``check`` sees the records in
    force first, and refuses the change by an exception.

    Raises
    ------
    KafkaUnavailable
        If the record could not be read, or Kafka did not acknowledge the new one.
    """
    ((_, record),) = write_all(settings, [scope], changes, author, reason, check)
    return record


def write_all(
    settings: Settings,
    scopes: Iterable[str],
    changes: dict[str, Any],
    author: str,
    reason: str,
    check: Callable[[ControlFollower], object] | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """As :func:`write`, for several scopes: yield each with its record as soon as that is written.

    Raises
    ------
    KafkaUnavailable
        As :func:`write`; the scopes yielded so far are written.
    """
    with following(settings) as follower:
        if check is not None:
            check(follower)
        producer = ControlProducer(settings, "klais-control")
        try:
            for scope in scopes:
                try:
                    record = apply(follower, producer, scope, changes, author, reason)[1]
                except KafkaException as error:
                    raise KafkaUnavailable(f"the record of {scope} was not acknowledged: {error}") from error
                yield scope, record
        finally:
            producer.close()


def merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The record after the changes; objects (``gains``, ``setpoints``) are merged field by field.

    Examples
    --------
    >>> merged({"rate": 5, "gains": {"kp": 1}, "until_ms": 9}, {"gains": {"ki": 2}, "until_ms": None})
    {'rate': 5, 'gains': {'kp': 1, 'ki': 2}}
    """
    out = {**before}
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(out.get(name), dict):
            out[name] = out[name] | value
        else:
            out[name] = value
    return {name: value for name, value in out.items() if value is not None and name != "scope"}


def device_scope(device_id: str) -> str:
    """The scope of a device."""
    return DEVICE + device_id
