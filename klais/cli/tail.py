"""``klais tail``: the records of a topic, decoded."""

import os
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from klais.cli.decode import Record, about_device, decode, lines, resolve
from klais.cli.options import MAX_COUNT, PARTITION, SOME_TEXT
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.waiting import Outage, notice_after
from klais.errors import KafkaUnavailable, TopicMismatch

if TYPE_CHECKING:
    from klais.config.load import Settings

_MAX_BACKLOG = 1 << 22  # records of a partition that --device searches at most
_TIMEOUT_S = 10.0


@click.command()
@click.argument("topic")
@click.option(
    "-n",
    "count",
    type=click.IntRange(0, MAX_COUNT),
    default=10,
    show_default=True,
    help="The newest N records (the first N with --from-beginning).",
)
@click.option("-f", "--follow", is_flag=True, help="Continue with new records, until Ctrl-C.")
@click.option("--from-beginning", is_flag=True, help="Start at the oldest stored record; print all unless -n is given.")
@click.option("--partition", type=PARTITION, help="Only this partition.")
@click.option("--device", type=SOME_TEXT, help="Only records of this device_id.")
@click.option(
    "--frames", type=click.IntRange(0), default=10, show_default=True, help="Frames shown of each frame batch; 0 = all."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per record, with all frames of a batch.")
@click.pass_context
def tail(
    ctx: click.Context,
    topic: str,
    count: int,
    follow: bool,
    from_beginning: bool,
    partition: int | None,
    device: str | None,
    frames: int,
    as_json: bool,
) -> None:
    """Print records of TOPIC, decoded: the newest ones, then exit.

    TOPIC is a name with or without the configured prefix, or a short name: telemetry, raw, anomalies, dead_letter,
    journal, stats, control, devices. A line begins with the record's time, partition@offset and key. Nothing is
    committed, so this has no effect on other readers.

    \b
    Examples:
      klais tail iot_telemetry -f
      klais tail raw -n 2 --frames 0
      klais tail telemetry --device dev-7 --json | jq .value.data
      klais tail dead_letter --from-beginning
    """
    settings = load()
    kind, name = resolve(topic, settings)
    if device is not None and kind in ("journal", "stats"):
        raise click.UsageError(f"records of {name} do not belong to single devices: omit --device")
    given = ctx.get_parameter_source("count") is not click.core.ParameterSource.DEFAULT
    limit = count if given or not from_beginning else None
    reader = TopicReader(settings, name, partition)
    try:
        rows = reader.rows(kind, device, limit, from_beginning, follow)
        for row in rows:
            if as_json:
                say_json({"topic": name, **row})
            else:
                say(*lines(kind, row, frames))
    except KeyboardInterrupt:
        pass
    finally:
        reader.close()


class TopicReader:
    """Reads one topic with a consumer that joins no group and commits nothing.

    Raises
    ------
    KafkaUnavailable
        If no broker responds.
    TopicMismatch
        If the topic, or the partition, does not exist.
    """

    def __init__(self, settings: "Settings", topic: str, partition: int | None = None) -> None:
        from klais.kafka.probe import need_kafka, no_kafka

        self.topic, self._settings = topic, settings
        need_kafka(settings)  # before the client is imported, which is not needed without a broker
        from confluent_kafka import Consumer, KafkaException

        from klais.kafka.clients import confluent_config

        # The client requires a group.id; without subscribe() and commits the broker never sees it.
        own = {"group.id": f"klais-tail-{os.getpid()}", "enable.auto.commit": False, "enable.partition.eof": True}
        # Retention may remove the first records before they are read: continue with the next ones, not at the end.
        own |= {"isolation.level": "read_uncommitted", "log_level": 0, "auto.offset.reset": "earliest"}
        self._consumer = Consumer(confluent_config(settings) | own)
        try:
            with notice_after(f"no answer yet from Kafka at {settings.bootstrap}: waiting up to {_TIMEOUT_S:g} s"):
                found = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
        except KafkaException as error:
            self.close()
            raise no_kafka(settings, error.args[0].str()) from None
        self.partitions = sorted(found.partitions)
        if found.error is not None or not self.partitions:
            self.close()
            raise TopicMismatch(
                f"there is no topic {topic!r} at {settings.bootstrap}: `klais topics list` shows the topics"
            )
        if partition is not None:
            if partition not in found.partitions:
                self.close()
                raise TopicMismatch(f"{topic} has no partition {partition}: it has {len(self.partitions)}, from 0")
            self.partitions = [partition]

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def bounds(self) -> dict[int, tuple[int, int]]:
        """First offset and end offset of each partition."""
        from confluent_kafka import KafkaException, TopicPartition

        out = {}
        leaders = f"the leaders of {self.topic} (as the brokers' advertised.listeners name them)"
        try:
            with notice_after(f"no answer yet from {leaders}: waiting up to {_TIMEOUT_S:g} s"):
                for partition in self.partitions:
                    place = TopicPartition(self.topic, partition)
                    out[partition] = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
        except KafkaException as error:
            raise KafkaUnavailable(f"{leaders} do not answer: {error.args[0].str()}") from None
        return out

    def rows(
        self, kind: str, device: str | None, limit: int | None, from_beginning: bool, follow: bool
    ) -> Iterator[dict[str, Any]]:
        """Decoded records: the newest ``limit`` ones (or all, or the first), then new ones."""
        bounds = self.bounds()
        ends = {partition: high for partition, (_, high) in bounds.items()}
        if from_beginning:
            starts = {partition: low for partition, (low, _) in bounds.items()}
            records = self.read(starts, None if follow else ends)
            yield from islice(self._wanted(kind, device, records), limit)
            return
        if limit:
            yield from self._newest(kind, device, limit, bounds)
        if follow:
            yield from self._wanted(kind, device, self.read(ends, None))

    def _newest(
        self, kind: str, device: str | None, limit: int, bounds: dict[int, tuple[int, int]]
    ) -> list[dict[str, Any]]:
        """Searches backwards, eight times as far at each turn, until there are enough: offsets may be control records
        or not match."""
        window = max(limit, 16)
        ends = {partition: high for partition, (_, high) in bounds.items()}
        while True:
            starts = {partition: max(low, high - window) for partition, (low, high) in bounds.items()}
            found: dict[int, deque[dict[str, Any]]] = {partition: deque(maxlen=limit) for partition in bounds}
            for row in self._wanted(kind, device, self.read(starts, ends)):
                found[row["partition"]].append(row)
            everything = all(starts[partition] == low for partition, (low, _) in bounds.items())
            if everything or sum(map(len, found.values())) >= limit or window >= _MAX_BACKLOG:
                rows = [row for partition in found.values() for row in partition]
                return sorted(rows, key=lambda row: (row["ts"] or 0, row["partition"], row["offset"]))[-limit:]
            window *= 8

    def _wanted(self, kind: str, device: str | None, records: Iterator[Record]) -> Iterator[dict[str, Any]]:
        for record in records:
            row = decode(kind, record)
            if device is None or about_device(kind, row, device):
                yield row

    def read(self, starts: dict[int, int], ends: dict[int, int] | None) -> Iterator[Record]:
        """Records from ``starts`` up to ``ends`` (not included), or endlessly if ``ends`` is None.

        Raises
        ------
        KafkaUnavailable
            If no record arrived for 30 s although there are records to read.
        TopicMismatch
            If the topic was deleted and created again while it is read endlessly: the client does not notice it.
        """
        from confluent_kafka import KafkaError, TopicPartition

        from klais.kafka.topic_identity import TopicIdentity

        left = {p for p in starts if ends is None or starts[p] < ends[p]}
        if not left:
            return
        self._consumer.assign([TopicPartition(self.topic, p, starts[p]) for p in sorted(left)])
        received_s = time.monotonic()
        identity = TopicIdentity(self._settings, self.topic) if ends is None else None
        outage = Outage(f"{self.topic} at {self._settings.bootstrap} can be read again")
        while left:
            messages = self._consumer.consume(50, timeout=0.2)
            if identity is not None:
                if identity.replaced():
                    raise TopicMismatch(
                        f"{self.topic} was deleted and created again: run this again to read the new one"
                    )
                outage.update(identity.problem())
            if messages:
                received_s = time.monotonic()
            elif ends is not None and time.monotonic() - received_s > 3 * _TIMEOUT_S:
                raise KafkaUnavailable(f"{self.topic}: no record for {3 * _TIMEOUT_S:g} s: is the broker running?")
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF and ends is not None:
                        left.discard(message.partition())
                    elif error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                        raise KafkaUnavailable(f"{self.topic}: {error.str()}")
                elif ends is None or message.offset() < ends[message.partition()]:
                    yield _record(message)
                if error is None and ends is not None and message.offset() + 1 >= ends[message.partition()]:
                    left.discard(message.partition())


def _record(message: Any) -> Record:
    from klais.kafka.clients import headers_of

    kind, ts_ms = message.timestamp()
    headers = headers_of(message)
    place = (message.partition(), message.offset())
    return Record(*place, ts_ms if kind else None, message.key(), message.value(), headers)
