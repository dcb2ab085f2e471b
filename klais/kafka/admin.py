"""Topics on the cluster: create missing ones, reject wrong ones, and explain how to fix them."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable, TopicMismatch
from klais.kafka.admin_client import admin_client
from klais.kafka.offsets import list_offsets
from klais.kafka.topic_rules import (
    Mismatch,
    TopicState,
    compare,
    compare_replication,
    compare_retention,
    compare_safety,
)
from klais.kafka.topics import Topics, TopicSpec
from klais.telemetry.log import Throttle

TIMEOUT_S = 15.0
_NOT_ALTERED = frozenset({"partitions", "replication"})
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)


def wait_for_broker(
    settings: Settings,
    timeout_s: float | None = None,
    on_wait: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> AdminClient:
    """Return an AdminClient once a broker answers.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    timeout_s : float, optional
        Longest wait in seconds; None = without limit, 0 = one attempt.
    on_wait : callable, optional
        Called with a line of text at the start of the wait and every 5 s.
    stop : callable, optional
        Polled every second; if true, the wait ends as with the time-out.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If no broker answered in time; the message has the last error.
    klais.errors.KafkaForbidden
        If a broker refused the login.
    """
    errors: list[KafkaError] = []  # a refused login is reported here; the call itself only times out
    admin = admin_client(settings, errors.append)
    started = time.monotonic()
    throttle = Throttle(5.0)
    while True:
        try:
            left = 1.0 if timeout_s is None else timeout_s - (time.monotonic() - started)
            admin.list_topics(timeout=3.0 if timeout_s == 0 else min(1.0, max(left, 0.1)))
            return admin
        except KafkaException as error:
            refused = next((KafkaException(e) for e in errors if e.code() in _FORBIDDEN), error)
            if is_forbidden(refused):
                raise _unavailable(refused, settings) from error
            errors.clear()
            why = _reason(error, settings)
        waited = time.monotonic() - started
        if (timeout_s is not None and waited >= timeout_s) or (stop is not None and stop()):
            raise KafkaUnavailable(f"Kafka at {settings.bootstrap} does not answer ({why}) after {waited:.0f} s")
        if on_wait is not None and throttle.calls():
            on_wait(f"Kafka at {settings.bootstrap} does not answer ({why}): waiting for it, {waited:.0f} s so far")
        admin.poll(0.2)


def ensure_topics(settings: Settings, admin: AdminClient | None = None, fix: bool = False) -> list[str]:
    """Create missing topics and check existing ones.

    Parameters
    ----------
    settings : Settings
        Names, partitions and replication.
    admin : AdminClient, optional
        Client to use instead of a new one.
    fix : bool
        Correct the settings of existing topics, except the partition count, which would move devices between
        partitions.

    Returns
    -------
    list of str
        Names of the created topics.

    Raises
    ------
    klais.errors.TopicMismatch
        If there are mismatches, one line each. No topic is created then, so that no partial set of topics remains.
    klais.errors.KafkaUnavailable, klais.errors.KafkaForbidden
        If no broker answers, or it refuses.
    """
    admin = admin or admin_client(settings)
    specs = Topics.of(settings).specs()
    states = _states(settings, admin, [spec.name for spec in specs])
    wrong = [m for m in _mismatches(settings, specs, states) if m.setting != "missing"]
    if fix:
        _alter(settings, admin, [m for m in wrong if m.setting not in _NOT_ALTERED])
        wrong = [m for m in wrong if m.setting in _NOT_ALTERED]
    if wrong:
        raise TopicMismatch("\n".join(str(mismatch) for mismatch in wrong))
    return _create(settings, admin, _fitted(settings, [spec for spec in specs if spec.name not in states], states))


def _fitted(settings: Settings, missing: list[TopicSpec], states: dict[str, TopicState]) -> list[TopicSpec]:
    """Give a journal created for existing raw records the same retention as those."""
    topics = Topics.of(settings)
    too_short = {m.topic: m.wanted for m in compare_retention(topics, states | _planned(missing))}
    return [
        replace(spec, config={**spec.config, "retention.ms": too_short[spec.name]}) if spec.name in too_short else spec
        for spec in missing
    ]


def _planned(specs: list[TopicSpec]) -> dict[str, TopicState]:
    return {s.name: TopicState(s.name, s.partitions or 0, 0, {**s.defaults, **s.config}, None) for s in specs}


def check_topics(settings: Settings, admin: AdminClient | None = None) -> list[Mismatch]:
    """All mismatches, including missing topics; empty = the topics are correct."""
    specs = Topics.of(settings).specs()
    return _mismatches(settings, specs, _states(settings, admin or admin_client(settings), [s.name for s in specs]))


def _mismatches(settings: Settings, specs: list[TopicSpec], states: dict[str, TopicState]) -> list[Mismatch]:
    found = compare(specs, states) + compare_replication(settings.replication, states) + compare_safety(states)
    ours = {(m.topic, m.setting) for m in found}
    return found + [m for m in compare_retention(Topics.of(settings), states) if (m.topic, m.setting) not in ours]


def list_topics(settings: Settings, everything: bool = False, admin: AdminClient | None = None) -> list[TopicState]:
    """The existing topics of KLAIS (or all non-internal topics of the cluster), with record counts."""
    admin = admin or admin_client(settings)
    names = [spec.name for spec in Topics.of(settings).specs()]
    if everything:
        names = sorted(name for name in _metadata(settings, admin) if not name.startswith("__"))
    return list(_states(settings, admin, names, count=True).values())


def _metadata(settings: Settings, admin: AdminClient) -> dict[str, Any]:
    try:
        found: dict[str, Any] = admin.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise _unavailable(error, settings) from error
    return found


def _states(settings: Settings, admin: AdminClient, names: list[str], count: bool = False) -> dict[str, TopicState]:
    topics = {name: meta for name, meta in _metadata(settings, admin).items() if name in set(names)}
    if not topics:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
    asked = admin.describe_configs(resources, request_timeout=TIMEOUT_S)
    configs: dict[str, dict[str, str]] = {}
    for resource, future in asked.items():
        try:
            entries = future.result()
        except KafkaException as error:
            raise _unavailable(error, settings) from error
        configs[resource.name] = {key: entry.value or "" for key, entry in entries.items()}
    return {
        name: TopicState(
            name=name,
            partitions=len(topics[name].partitions),
            replication=min((len(p.replicas) for p in topics[name].partitions.values()), default=0),
            config=configs[name],
            records=_record_count(admin, name, topics[name]) if count else None,
        )
        for name in names
        if name in topics
    }


def _record_count(admin: AdminClient, name: str, meta: Any) -> int | None:
    """Number of retained records; None while a partition has no leader, so that listing topics still works."""
    if any(partition.leader < 0 for partition in meta.partitions.values()):
        return None  # the query would be repeated until its time-out
    try:
        first, end = (_offsets(admin, {name: meta}, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
    except KafkaException:
        return None
    return sum(end.values()) - sum(first.values())


def _offsets(admin: AdminClient, topics: dict[str, Any], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    return list_offsets(admin, [(name, p) for name, meta in topics.items() for p in meta.partitions], spec, TIMEOUT_S)


def _create(settings: Settings, admin: AdminClient, specs: list[TopicSpec]) -> list[str]:
    if not specs:
        return []
    new = [
        NewTopic(
            spec.name,
            num_partitions=spec.partitions or settings.partitions,
            replication_factor=settings.replication,
            config={**spec.defaults, **spec.config},
        )
        for spec in specs
    ]
    created = []
    for name, future in admin.create_topics(new, operation_timeout=TIMEOUT_S).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            # Another process that started at the same time created it.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _unavailable(error, settings, f"topic {name} could not be created") from error
    _wait_for_leaders(settings, admin, {spec.name for spec in specs})
    return created


def _wait_for_leaders(settings: Settings, admin: AdminClient, names: set[str]) -> None:
    """Wait until new topics can be used: brokers confirm the creation earlier, so ask each partition for its end."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        topics = {name: meta for name, meta in _metadata(settings, admin).items() if name in names}
        try:
            if len(topics) == len(names) and all(meta.partitions for meta in topics.values()):
                _offsets(admin, topics, OffsetSpec.latest())
                return
            why = "they are not in the metadata"
        except KafkaException as error:
            why = _reason(error, settings)
        if time.monotonic() > deadline:
            raise KafkaUnavailable(f"new topics {', '.join(sorted(names))} do not serve after {TIMEOUT_S:.0f} s: {why}")
        time.sleep(0.05)


def _alter(settings: Settings, admin: AdminClient, wrong: list[Mismatch]) -> None:
    by_topic: dict[str, list[ConfigEntry]] = {}
    for m in wrong:
        entry = ConfigEntry(m.setting, m.wanted, incremental_operation=AlterConfigOpType.SET)
        by_topic.setdefault(m.topic, []).append(entry)
    if not by_topic:
        return
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=e) for topic, e in by_topic.items()]
    for resource, future in admin.incremental_alter_configs(resources, request_timeout=TIMEOUT_S).items():
        try:
            future.result()
        except KafkaException as error:
            raise _unavailable(error, settings, f"topic {resource.name} could not be altered") from error


def is_forbidden(error: KafkaException) -> bool:
    """Whether a broker answered and refused the login or an operation."""
    cause = error.args[0]
    return isinstance(cause, KafkaError) and cause.code() in _FORBIDDEN


def _unavailable(error: KafkaException, settings: Settings, what: str = "") -> KafkaUnavailable | KafkaForbidden:
    if is_forbidden(error):
        prefix = f"{what}: " if what else ""
        return KafkaForbidden(
            f"{prefix}Kafka at {settings.bootstrap} refuses: {_reason(error, settings)}. "
            "`klais topics rights` prints the rights that each role needs"
        )
    prefix = f"{what}: " if what else f"Kafka at {settings.bootstrap} does not answer: "
    return KafkaUnavailable(prefix + _reason(error, settings))


def _reason(error: KafkaException, settings: Settings) -> str:
    """The client's error as text: librdkafka's own codes are not helpful."""
    cause = error.args[0]
    if isinstance(cause, KafkaError) and cause.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
        return "nothing listens there" if settings.embedded_kafka else "no connection"
    if isinstance(cause, KafkaError) and cause.code() == KafkaError._TIMED_OUT:
        return "timed out"
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
