"""Transactions of other programs that stay open on a topic of KLAIS.

KLAIS reads uncommitted records, so such a transaction holds nothing up here. But consumers with
``isolation.level=read_committed``, the default of several clients, get no record behind its first one.
"""

import asyncio
import time

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.config.load import Settings
from klais.errors import KlaisError
from klais.kafka.offsets import Offsets, known_offset
from klais.kafka.topics import Topics

STUCK_S = 50.0  # longer than the transaction of a fence may take, also of a process that died in it
TIMEOUT_S = 10.0


class OpenTransactions:
    """Compares the last stable offset of each partition with its end, whenever it is asked.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster and the names of the topics.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = [
            (spec.name, p)
            for spec in Topics.of(settings).specs()
            for p in range(spec.partitions or settings.partitions)
        ]
        self._open: dict[tuple[str, int], tuple[int, float]] = {}  # last stable offset, since when (monotonic)
        self._producers: dict[tuple[str, int, int], int] = {}  # by topic, partition and offset

    def check(self, admin: AdminClient) -> list[str]:
        """The transactions that have been open for long, as texts with what to do.

        Raises
        ------
        KafkaException
            If no broker answers.
        """
        stable = _offsets(admin, self._places, IsolationLevel.READ_COMMITTED)
        ends = _offsets(admin, list(stable), IsolationLevel.READ_UNCOMMITTED)
        found = {place: at for place, at in stable.items() if at < ends.get(place, at)}
        now_s = time.monotonic()
        same = {place for place, at in found.items() if self._open.get(place, (-1, 0.0))[0] == at}
        self._open = {place: self._open[place] if place in same else (at, now_s) for place, at in found.items()}
        stuck = {place: at for place, at in self._open.items() if now_s - at[1] >= STUCK_S}
        keys = {(*place, at) for place, (at, _) in stuck.items()}
        self._producers = {key: self._producers.get(key) or self._producer_at(*key) for key in keys}
        return [
            _text(place, at, ends[place], now_s - since_s, self._producers[(*place, at)])
            for place, (at, since_s) in sorted(stuck.items())
        ]

    def _producer_at(self, topic: str, partition: int, offset: int) -> int:
        """Producer id of the first batch at or after an offset; -1 = unknown."""
        from klais.kafka.reader import PartitionReader  # a process that finds no open transaction needs no aiokafka

        async def ask() -> int:
            async with PartitionReader(self._settings, TIMEOUT_S) as reader:
                async for record in reader.read(topic, partition, offset):
                    return record.producer_id
            return -1

        try:
            return asyncio.run(ask())
        except KlaisError:
            return -1


def _offsets(admin: AdminClient, places: list[tuple[str, int]], isolation: IsolationLevel) -> Offsets:
    """End offsets of the partitions that exist."""
    if not places:
        return {}
    wanted = {TopicPartition(*place): OffsetSpec.latest() for place in places}
    out: Offsets = {}
    asked = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=TIMEOUT_S)
    for place, future in asked.items():
        try:
            out[(place.topic, place.partition)] = known_offset(future.result().offset)
        except KafkaException:
            continue  # a missing topic or a moving leader is reported elsewhere
    return out


def _text(place: tuple[str, int], at: int, end: int, open_s: float, producer_id: int) -> str:
    topic, partition = place
    who = f"producer id {producer_id}" if producer_id >= 0 else "an unknown producer"
    return (
        f"{topic}/{partition}: a transaction of {who} has been open for {open_s:.0f} s at offset {at}; KLAIS goes on, "
        f"but consumers of committed records wait before the {end - at} offsets from there on: find out who writes to "
        f"the topic, and end it with `kafka-transactions abort --topic {topic} --partition {partition} --start-offset "
        f"{at}`"
    )
