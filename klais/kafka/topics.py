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
        """All topics with partition count and required settings."""
        big = {"max.message.bytes": str(MAX_RECORD_BYTES)}
        day = {"cleanup.policy": "delete", "retention.ms": str(DAY_MS), **big}
        kept = {"cleanup.policy": "delete", **big}
        week = {"retention.ms": str(7 * DAY_MS)}  # how long to keep results is the operator's choice
        compact = {"cleanup.policy": "compact", **big}
        fast_compact = {
            **compact,
            "segment.ms": "600000",
            "segment.bytes": str(128 << 20),  # only closed segments are compacted, and recovery reads what is not
            "min.cleanable.dirty.ratio": "0.1",
            "delete.retention.ms": "600000",
        }
        # Everybody reads it from its start: little may be left uncompacted, the newest decisions at least.
        decisions = {
            "segment.ms": "600000",
            "segment.bytes": str(8 << 20),
            "min.cleanable.dirty.ratio": "0.1",
            "min.compaction.lag.ms": "300000",
        }
        n = self.partitions
        return [
            TopicSpec(self.raw, n, day),
            TopicSpec(self.journal, n, day),
            TopicSpec(self.telemetry, n, kept, week),
            TopicSpec(self.anomalies, n, kept, week),
            TopicSpec(self.dead_letter, n, kept, week),
            TopicSpec(self.stats, 1, {"cleanup.policy": "compact,delete", "retention.ms": str(DAY_MS)}),
            TopicSpec(self.control, 1, {"cleanup.policy": "compact"}, decisions),
            TopicSpec(self.devices_changelog, n, fast_compact),
        ]
