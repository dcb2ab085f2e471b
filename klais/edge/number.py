"""The number of this edge if none is configured: from the name of a pod, or claimed in ``klais_control``.

A claim is one record with the key ``edge-id/<name>``; its value has the first number and their count. Kafka's log
orders the claims: if two overlap, the one with the lower offset is valid, and the other edge claims again. An edge with
a valid claim writes no second one, and no two names share a key, so compaction does not change the order of claims.
"""

import time
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import orjson
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.config.settings import EDGE_IDS
from klais.errors import ConfigError, KafkaUnavailable, NotPrivate
from klais.kafka.follower import TopicFollower
from klais.kafka.stats import ControlProducer
from klais.kafka.topics import Topics
from klais.system import shallow_json
from klais.system.private_files import named_folder, write_own
from klais.telemetry import log as logs

log = logs.get("klais.edge")

SCOPE = "edge-id/"
FIRST = 1024  # lower numbers are for manual configuration
END = EDGE_IDS
MACHINE_ID = Path("/etc/machine-id")
WAIT_S = 60.0
READ_S = 10.0


class Claim(NamedTuple):
    """Numbers ``first`` to ``first + size - 1`` of the edge ``name``."""

    name: str
    first: int
    size: int


def with_edge_id(settings: Settings) -> Settings:
    """The settings with the number of this edge in ``edge_id``.

    Raises
    ------
    ConfigError
        If ``KLAIS_EDGE_NAME`` is missing or does not end in a number, or all numbers are claimed.
    KafkaUnavailable
        If this edge has no number yet, and Kafka assigned none within a minute.
    """
    if settings.edge_id_from == "number":
        return settings
    edge_id = ordinal(settings) if settings.edge_id_from == "name" else _claimed(settings)
    # Constructed, not copied: this validates the numbers of all processes.
    fields = {name: getattr(settings, name) for name in settings.model_fields_set}
    return Settings(**(fields | {"edge_id": edge_id, "edge_id_from": "number"}))


def ordinal(settings: Settings) -> int:
    """The number at the end of ``KLAIS_EDGE_NAME``, times the number of processes per edge.

    Examples
    --------
    >>> ordinal(Settings(edge_name="klais-edge-3", edge_id_from="name"))
    3

    Raises
    ------
    ConfigError
        If it does not end in a number.
    """
    end = (settings.edge_name or "").rpartition("-")[2]
    if not (end.isascii() and end.isdigit() and len(end) <= 5):
        text = f"KLAIS_EDGE_NAME={settings.edge_name}: KLAIS_EDGE_ID_FROM=name needs a name like klais-edge-3"
        raise ConfigError(text)
    return int(end) * settings.edge_workers


def held(claims: list[Claim], name: str, count: int) -> int | None:
    """First number of the claim of ``name`` if it is valid and has ``count`` numbers; ``claims`` in the log's order.

    Examples
    --------
    >>> held([Claim("a", 1024, 2), Claim("b", 1025, 1)], "a", 1), held([Claim("a", 1024, 2)], "b", 1)
    (1024, None)
    """
    for place, claim in enumerate(claims):
        if claim.name == name:
            lost = any(_overlap(claim, earlier) for earlier in claims[:place])
            return None if lost or claim.size < count else claim.first
    return None


def lowest_free(claims: list[Claim], name: str, count: int) -> int | None:
    """First of ``count`` consecutive numbers that no other name claims; None if there are none.

    Examples
    --------
    >>> lowest_free([Claim("a", 1024, 2), Claim("b", 1027, 1)], "c", 2)
    1028
    """
    first = FIRST
    for claim in sorted((claim for claim in claims if claim.name != name), key=lambda claim: claim.first):
        if claim.first >= first + count:
            break
        first = max(first, claim.first + claim.size)
    return first if first + count <= END else None


def _overlap(one: Claim, other: Claim) -> bool:
    return one.first < other.first + other.size and other.first < one.first + one.size


class _Claims(TopicFollower):
    """The claims in the order of the log, each at the position of its newest record."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Topics.of(settings).control, from_start=True)
        self.claims: dict[str, Claim] = {}

    def reset(self) -> None:
        """See :class:`TopicFollower`."""
        self.claims = {}

    def consume(self, key: str, value: bytes | None, appended_ms: int | None = None) -> None:
        """Store one claim; other records of ``klais_control`` are ignored."""
        if not key.startswith(SCOPE):
            return
        name = key.removeprefix(SCOPE)
        self.claims.pop(name, None)
        if value is not None:
            self.claims[name] = _claim(name, value)


def _claim(name: str, value: bytes) -> Claim:
    record = shallow_json.loads(value)
    first, count = (record.get(field) for field in ("first", "count")) if isinstance(record, dict) else (None, None)
    if not (isinstance(first, int) and isinstance(count, int) and 0 <= first < END and 0 < count <= 256):
        raise ValueError(f"the claim of {name!r} has no valid edge numbers")
    return Claim(name, first, count)


def _claimed(settings: Settings) -> int:
    """The number from the state folder if this edge has claimed one before, so that it starts without Kafka."""
    name, count = settings.edge_name or _machine_name(settings), settings.edge_workers
    file = named_folder(settings.state_dir, "KLAIS_STATE_DIR") / "edge-id.json"
    kept = {"name": name, "count": count, "prefix": settings.topic_prefix}
    try:
        before = shallow_json.loads(file.read_bytes())
    except FileNotFoundError:
        before = {}
    except (OSError, ValueError) as error:
        raise NotPrivate(
            f"{file} cannot be read ({error}): remove it, and the edge asks Kafka for its number"
        ) from None
    if {field: before.get(field) for field in kept} == kept and isinstance(before.get("first"), int):
        return int(before["first"])
    first = claim(settings, name, count)
    write_own(file, orjson.dumps(kept | {"first": first}))
    log.info("edge_id_claimed", name=name, first=first, count=count)
    return first


def claim(settings: Settings, name: str, count: int, wait_s: float = WAIT_S) -> int:
    """Claim ``count`` numbers for ``name`` in Kafka; returns the first. Retries for up to ``wait_s`` seconds.

    Raises
    ------
    ConfigError
        If all numbers are claimed.
    KafkaUnavailable
        If the claim could not be read or written in that time.
    """
    producer = ControlProducer(settings, "klais-edge-id")
    until_s, problem = time.monotonic() + wait_s, f"{Topics.of(settings).control} could not be read"
    try:
        while time.monotonic() < until_s:
            claims = _read(settings)
            if claims is None:
                log.warning("edge_id_not_claimed", bootstrap=settings.bootstrap, topic=Topics.of(settings).control)
                continue
            first = held(claims, name, count)
            if first is not None:
                return first
            first = lowest_free(claims, name, count)
            if first is None:
                raise ConfigError(f"no {count} consecutive edge numbers are free from {FIRST} to {END - 1}")
            try:
                producer.control(SCOPE + name, {"first": first, "count": count})
            except KafkaException as error:
                problem = f"the claim was not acknowledged: {error}"
    finally:
        producer.close()
    raise KafkaUnavailable(f"this edge has no number (KLAIS_EDGE_ID_FROM=claim) after {wait_s:g} s: {problem}")


def _read(settings: Settings) -> list[Claim] | None:
    follower = _Claims(settings)
    follower.start()
    try:
        return list(follower.claims.values()) if follower.wait_caught_up(READ_S) else None
    finally:
        follower.stop()


def _machine_name(settings: Settings) -> str:
    """Hash of machine id and state folder: two edges of one machine differ, and a machine id is confidential."""
    try:
        machine = MACHINE_ID.read_text().strip()
    except OSError:
        machine = ""
    if not machine:
        raise ConfigError(f"KLAIS_EDGE_ID_FROM=claim: {MACHINE_ID} has no machine id, so set KLAIS_EDGE_NAME")
    return blake2b(
        f"{machine}:{settings.state_dir.resolve()}".encode(), digest_size=16, person=b"klais-edge"
    ).hexdigest()
