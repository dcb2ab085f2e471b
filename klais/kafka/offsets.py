"""First, end and timed offsets of topics, queried from the broker. End offsets also count transaction markers."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, TopicMismatch
from klais.kafka.admin_client import admin_client

Offsets = dict[tuple[str, int], int]
"""Offsets by (topic, partition)."""

TAIL_STRIDE = 16
TIMEOUT_S = 30.0
RETRY_S = 0.2
LEADER_MOVES = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
)


def tail_ranges(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges of offsets (first, end) from the end of a log back to ``start``, each larger than the one before.

    Examples
    --------
    >>> list(tail_ranges(0, 100))
    [(99, 100), (83, 99), (0, 83)]
    """
    stride = 1
    while end > start:
        low = max(start, end - stride)
        yield low, end
        end, stride = low, stride * TAIL_STRIDE


def known_offset(offset: int) -> int:
    """An offset of an answer.

    Raises
    ------
    confluent_kafka.KafkaException
        If librdkafka left it invalid (-1001), as it does without an error for brokers that did not answer in time.
    """
    if offset == OFFSET_INVALID:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the leader of the partition did not answer in time"))
    return offset


def list_offsets(
    client: AdminClient,
    places: Iterable[tuple[str, int]],
    spec: OffsetSpec | None = None,
    timeout_s: float = TIMEOUT_S,
    partial: bool = False,
) -> Offsets:
    """Query offsets of partitions. Blocks until the broker answers.

    Parameters
    ----------
    client : AdminClient
        The connection.
    places : iterable of (str, int)
        Topics and partitions.
    spec : OffsetSpec, optional
        The kind of offset; by default the end offset.
    timeout_s : float
        Time limit for the broker's answer.
    partial : bool
        Leave out partitions that failed, for example while their leader moves, if at least one succeeded.

    Raises
    ------
    confluent_kafka.KafkaException
        If the broker does not answer, or a partition failed for another reason than a moving leader.
    """
    spec = OffsetSpec.latest() if spec is None else spec
    left = list(places)
    found: Offsets = {}
    until_s = time.monotonic() + timeout_s
    while left:
        wanted: dict[Any, Any] = {TopicPartition(topic, partition): spec for topic, partition in left}
        left, failed, moves = [], None, True
        for place, future in client.list_offsets(wanted, request_timeout=timeout_s).items():
            try:
                found[(place.topic, place.partition)] = known_offset(future.result().offset)
            except KafkaException as error:
                failed, moves = error, moves and error.args[0].code() in LEADER_MOVES
                left.append((place.topic, place.partition))
        if failed is None or (partial and found):
            break
        if not moves or time.monotonic() > until_s:
            raise failed
        time.sleep(RETRY_S)
    return found


def begin_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """First offset of each partition of a topic; raises like :func:`end_offsets`."""
    return _of_topic(settings, topic, OffsetSpec.earliest())


def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """The offset after the last one of each partition of a topic.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If no broker answers, or the topic does not exist.
    """
    return _of_topic(settings, topic, OffsetSpec.latest())


def offsets_at(settings: Settings, topic: str, ts_ms: int) -> dict[int, int]:
    """First offset of each partition with a record of ``ts_ms`` or later, else the end; raises like
    :func:`end_offsets`."""
    ends = end_offsets(settings, topic)
    # Negative times are not times for Kafka: -1 means the end, and others are errors.
    found = _of_topic(settings, topic, OffsetSpec.for_timestamp(max(0, ts_ms)))
    return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}


def need_partitions(settings: Settings, topic: str) -> None:
    """Return if ``topic`` has KLAIS_PARTITIONS partitions. Commands check this before they choose partitions.

    Raises
    ------
    klais.errors.TopicMismatch
        If it has another number.
    klais.errors.KafkaUnavailable
        As in :func:`end_offsets`.
    """
    found, wanted = len(_partitions(settings, topic, admin_client(settings))), settings.partitions
    if found != wanted:
        raise TopicMismatch(
            f"{topic} has {found} partitions, and not {wanted} as {settings.origin('partitions')} says: "
            "set KLAIS_PARTITIONS as for the edges and workers"
        )


def _of_topic(settings: Settings, topic: str, spec: OffsetSpec) -> dict[int, int]:
    client = admin_client(settings)
    places = [(topic, partition) for partition in _partitions(settings, topic, client)]
    try:
        return {partition: offset for (_, partition), offset in list_offsets(client, places, spec).items()}
    except KafkaException as error:
        raise KafkaUnavailable(f"cannot read offsets of {topic} at {settings.bootstrap}: {error}") from error


def _partitions(settings: Settings, topic: str, client: AdminClient) -> list[int]:
    """The partitions of a topic; raises like :func:`end_offsets`."""
    try:
        known = client.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    except KafkaException as error:
        raise KafkaUnavailable(f"cannot read offsets of {topic} at {settings.bootstrap}: {error}") from error
    if known.error is not None or not known.partitions:
        raise KafkaUnavailable(f"there is no topic {topic}: {known.error or KafkaError(KafkaError._UNKNOWN_TOPIC)}")
    return sorted(known.partitions)
