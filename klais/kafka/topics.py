"""The topics of KLAIS: names, partition counts and the settings each must have. Declared once, here."""

from dataclasses import dataclass, field

from klais.config.topic_names import TopicNames

DAY_MS = 86_400_000
MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as KLAIS needs it: ``partitions`` None = any number; ``config`` holds the settings that must match
    (sizes and times: at least so much), ``defaults`` those that a topic is created with and its owner may change."""

    name: str
    partitions: int | None
    config: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics(TopicNames):
    """All topics: their names, and ``specs`` for creating and checking them."""

    def specs(self) -> list[TopicSpec]:
        """All topics with partition count, the settings that correctness needs, and those that only serve speed.

        Every topic carries the broker's time (``LogAppendTime``). The clock of an edge or a worker is untrusted: with
        the producer's time a record too far ahead is refused, one too far behind is deleted early, and brokers forget a
        lane's producer epoch, which fences its zombies, by record time too. The time of receipt is in the records'
        values.
        """
        common = {"max.message.bytes": str(MAX_RECORD_BYTES), "message.timestamp.type": "LogAppendTime"}
        if self.replication > 2:
            # A write is acknowledged by two replicas at least, or a single failure could lose what was accepted.
            common["min.insync.replicas"] = "2"
        # A bound in bytes would remove what no lane has taken yet, however short the outage.
        day = {"cleanup.policy": "delete", "retention.ms": str(DAY_MS), "retention.bytes": "-1", **common}
        if self.flush_each:
            day["flush.messages"] = "1"
        kept = {"cleanup.policy": "delete", **common}
        week = {"retention.ms": str(7 * DAY_MS)}  # the operator chooses how long to keep results
        bounded = {**week, "retention.bytes": str(1 << 30)}  # by partition: as hostile senders control their number
        compact = {"cleanup.policy": "compact", **common}
        # Kafka compacts closed segments only, and a recovering lane reads the others in full.
        often_compacted = {
            "segment.ms": "600000",
            "segment.bytes": str(128 << 20),
            "min.cleanable.dirty.ratio": "0.1",
            "delete.retention.ms": "600000",
        }
        # Every process reads klais_control from its start, so keep little uncompacted, but the newest decisions.
        # 50 MiB is the smallest segment that managed clusters accept; segment.ms closes it long before.
        decisions = {
            "segment.ms": "600000",
            "segment.bytes": str(50 << 20),
            "min.cleanable.dirty.ratio": "0.1",
            "min.compaction.lag.ms": "300000",
        }
        n = self.partitions
        return [
            TopicSpec(self.raw, n, day),
            TopicSpec(self.journal, n, day),
            TopicSpec(self.telemetry, n, kept, week),
            TopicSpec(self.anomalies, n, kept, bounded),
            TopicSpec(self.dead_letter, n, kept, bounded),
            TopicSpec(self.stats, 1, {**common, "cleanup.policy": "compact,delete"}, {"retention.ms": str(DAY_MS)}),
            TopicSpec(self.control, 1, compact, decisions),
            TopicSpec(self.audit, 1, kept, {"retention.ms": str(30 * DAY_MS), "retention.bytes": str(1 << 30)}),
            TopicSpec(self.devices_changelog, n, compact, often_compacted),
            TopicSpec(self.profiles_changelog, n, compact, often_compacted),
        ]
