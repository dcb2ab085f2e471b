"""The topics of KLAIS: names, partition counts and required settings. Declared once, here."""

from dataclasses import dataclass, field

from klais.config.topic_names import TopicNames

DAY_MS = 86_400_000
MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as required by KLAIS: ``partitions`` None = any number; ``config`` has the settings that must match
    (sizes and times: at least that value), ``defaults`` those for its creation, which its owner may change."""

    name: str
    partitions: int | None
    config: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topics(TopicNames):
    """All topics: their names, and ``specs`` to create and check them."""

    def specs(self) -> list[TopicSpec]:
        """All topics with partition count, the settings that correctness needs, and those that only serve speed.

        Every topic uses the broker's time (``LogAppendTime``), because the clock of an edge or a worker is untrusted.
        With the producer's time, a record too far ahead is refused, one too far behind is deleted early, and brokers
        forget a lane's producer epoch, which fences its zombies, by record time too. The receive time is in the
        records' values.
        """
        common = {"max.message.bytes": str(MAX_RECORD_BYTES), "message.timestamp.type": "LogAppendTime"}
        if self.replication > 2:
            # At least two replicas acknowledge a write, otherwise a single failure could lose accepted frames.
            common["min.insync.replicas"] = "2"
        # A limit in bytes would remove records that no lane has read yet, however short the outage.
        day = {"cleanup.policy": "delete", "retention.ms": str(DAY_MS), "retention.bytes": "-1", **common}
        if self.flush_each:
            day["flush.messages"] = "1"
        kept = {"cleanup.policy": "delete", **common}
        week = {"retention.ms": str(7 * DAY_MS)}  # the operator chooses how long to keep results
        bounded = {**week, "retention.bytes": str(1 << 30)}  # per partition: hostile senders control their number
        compact = {"cleanup.policy": "compact", **common}
        # Kafka compacts closed segments only, and a recovering lane reads the others in full.
        often_compacted = {
            "segment.ms": "600000",
            "segment.bytes": str(128 << 20),
            "min.cleanable.dirty.ratio": "0.1",
            "delete.retention.ms": "600000",
        }
        # Every process reads klais_control from its start, so keep little uncompacted except the newest decisions.
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
