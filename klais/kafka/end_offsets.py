"""End offsets of the topics and committed offsets of consumer groups, sampled in a thread next to the lanes.

The thread asks the broker once a second, or less often if that would cost more than 2 % of a core. So rates need no
counting, and the lag is the broker's even while the worker reads nothing.
"""

import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.admin_client import admin_client
from klais.kafka.groups import list_groups
from klais.kafka.offsets import Offsets, list_offsets
from klais.kafka.topics import Topics
from klais.telemetry import log as logs

log = logs.get("klais.kafka.end_offsets")

PERIOD_S = 1.0
MIN_REST_RATIO = 49.0  # rest at least this many times the CPU time of the last sample: 2 % of a core
RATE_OVER_S = 10.0
TIMEOUT_S = 5.0
MAX_GROUPS = 50
REPLACE_S = 5.0  # between two new clients while brokers do not answer: a topic may be missing for a long time


@dataclass(frozen=True, slots=True)
class Sample:
    """End offsets by (topic, partition) at one time (``at_s`` monotonic)."""

    at_s: float
    ends: Offsets


@dataclass(slots=True)
class Group:
    """Offsets committed by one consumer group, and an earlier sample of them (for its rate)."""

    name: str
    state: str
    members: int
    committed: Offsets
    at_s: float
    before: "Group | None" = field(default=None, repr=False)

    def rate(self, topic: str) -> float | None:
        """Records/s committed since the previous sample; None for the first one. Offsets that went back count as 0."""
        earlier = self.before
        if earlier is None or self.at_s <= earlier.at_s:
            return None
        grown = sum(
            max(0, offset - earlier.committed[where])
            for where, offset in self.committed.items()
            if where[0] == topic and where in earlier.committed
        )
        return grown / (self.at_s - earlier.at_s)


class EndOffsets:
    """Samples the end offsets of all topics in a daemon thread; ``groups`` queries the groups (blocking)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._where = {
            spec.name: list(range(spec.partitions or settings.partitions)) for spec in Topics.of(settings).specs()
        }
        self._samples: deque[Sample] = deque(maxlen=64)
        self._failing_since_s: float | None = None
        self._groups: dict[str, Group] = {}
        self._groups_at_s = -1e9
        self._groups_problem = ""
        self._groups_lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="end-offsets", daemon=True)
        self._admin: AdminClient | None = None
        self._replaced_at_s = -1e9

    @property
    def topics(self) -> list[str]:
        """Names of the sampled topics."""
        return list(self._where)

    def start(self) -> None:
        """Start sampling."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; does not wait for a broker that does not answer."""
        self._stop.set()

    def newest(self) -> Sample | None:
        """The newest sample."""
        return self._samples[-1] if self._samples else None

    def age_s(self) -> float | None:
        """Seconds since the newest sample."""
        newest = self.newest()
        return None if newest is None else time.monotonic() - newest.at_s

    def failing_s(self) -> float:
        """How long no broker has answered; 0 while one does."""
        since_s = self._failing_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def rate(self, topic: str) -> float | None:
        """Records/s written to a topic, over up to 10 s, of the partitions in both samples; None = unknown: before the
        second sample, or if no broker has answered for 10 s. Partitions whose end went back (a topic that was cut, or
        created again) do not count.
        """
        samples = list(self._samples)
        if len(samples) < 2 or time.monotonic() - samples[-1].at_s > RATE_OVER_S:
            return None
        newest = samples[-1]
        oldest = next(s for s in samples if newest.at_s - s.at_s <= RATE_OVER_S)
        oldest = oldest if oldest is not newest else samples[-2]
        ends, before = newest.ends, oldest.ends
        both = [place for place in ends if place[0] == topic and place in before and before[place] <= ends[place]]
        grown = sum(ends[place] - before[place] for place in both)
        return grown / (newest.at_s - oldest.at_s) if both else None

    def groups(self) -> list[Group]:
        """The groups with committed offsets on the topics of KLAIS; queried at most once a second. Blocks.

        Raises
        ------
        klais.errors.KafkaUnavailable
            If a broker does not answer; the next query then is some seconds later.
        """
        with self._groups_lock:
            age_s = time.monotonic() - self._groups_at_s
            if self._groups_problem and age_s < REPLACE_S:
                raise KafkaUnavailable(self._groups_problem)
            if age_s >= PERIOD_S:
                try:
                    found, self._groups_problem = self._ask_groups(), ""
                except KafkaUnavailable as error:
                    self._groups_problem = str(error)
                    raise
                finally:
                    self._groups_at_s = time.monotonic()
                for name, group in found.items():
                    group.before = self._groups.get(name)
                    if group.before is not None:
                        group.before.before = None
                self._groups = found
            return list(self._groups.values())

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = admin_client(self._settings)
        return self._admin

    def _ask_groups(self) -> dict[str, Group]:
        found = {}
        for group in list_groups(self._settings, MAX_GROUPS, TIMEOUT_S):
            committed = {where: offset for where, offset in group.committed.items() if where[0] in self._where}
            if committed:
                found[group.name] = Group(group.name, group.state, group.members, committed, time.monotonic())
        return found

    def _run(self) -> None:
        while not self._stop.is_set():
            began_s, busy_from_s = time.monotonic(), time.thread_time()
            try:
                ends = self._ask_ends()
                self._samples.append(Sample(time.monotonic(), ends))
                self._failing_since_s = None
                if len(ends) < sum(map(len, self._where.values())):
                    self._replace_client()
            except KafkaException as error:
                self._failing_since_s = self._failing_since_s or began_s
                self._replace_client()
                if logs.every(60, "klais.kafka.end_offsets"):
                    log.warning("end_offsets_not_sampled", error=str(error))
            took_s, busy_s = time.monotonic() - began_s, time.thread_time() - busy_from_s
            self._stop.wait(max(PERIOD_S - took_s, min(30.0, MIN_REST_RATIO * busy_s)))

    def _replace_client(self) -> None:
        """Replace the client: after an outage it may keep old leaders of some partitions, and fail there."""
        if time.monotonic() - self._replaced_at_s >= REPLACE_S:
            self._admin, self._replaced_at_s = None, time.monotonic()

    def _ask_ends(self) -> Offsets:
        places = [(topic, partition) for topic, partitions in self._where.items() for partition in partitions]
        return list_offsets(self._client(), places, timeout_s=TIMEOUT_S, partial=True)


def topics_body(offsets: EndOffsets, topics: Topics, positions: dict[int, int]) -> dict[str, Any]:
    """Body of ``/topics/``; blocks while the broker is asked for the groups.

    Parameters
    ----------
    offsets : EndOffsets
        The samples.
    topics : Topics
        Names of the topics.
    positions : dict of int to int
        Partition -> next raw offset of this worker's lanes.
    """
    groups: list[Group] | None = None
    with contextlib.suppress(KafkaUnavailable):
        groups = offsets.groups()
    sample = offsets.newest()
    ends = sample.ends if sample else {}
    out = {}
    for name in offsets.topics:
        of_topic = {p: offset for (topic, p), offset in sorted(ends.items()) if topic == name}
        out[name] = {
            "end_offsets": {str(p): offset for p, offset in of_topic.items()},
            "end": sum(of_topic.values()),
            "in_per_s": _round(offsets.rate(name)),
            "groups": None if groups is None else {g.name: _group(g, name, of_topic) for g in groups if _has(g, name)},
        }
    lag = {str(p): max(0, ends[(topics.raw, p)] - at) for p, at in positions.items() if (topics.raw, p) in ends}
    age_s = offsets.age_s()
    return {
        "sampled_s_ago": None if age_s is None else round(age_s, 3),
        "topics": out,
        "lanes": {"lag_records": lag, "lag": sum(lag.values())},
    }


def _has(group: Group, topic: str) -> bool:
    return any(name == topic for name, _ in group.committed)


def _group(group: Group, topic: str, ends: dict[int, int]) -> dict[str, Any]:
    committed = {p: offset for (name, p), offset in sorted(group.committed.items()) if name == topic}
    lag = {p: max(0, ends[p] - offset) for p, offset in committed.items() if p in ends}
    return {
        "state": group.state,
        "members": group.members,
        "committed": {str(p): offset for p, offset in committed.items()},
        "lag_by_partition": {str(p): records for p, records in lag.items()},
        "lag": sum(lag.values()),
        "out_per_s": _round(group.rate(topic)),
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
