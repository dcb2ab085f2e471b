"""The names of the topics, derived from the settings alone, without Kafka."""

from dataclasses import dataclass
from typing import Self

from klais.config.settings import SettingsFields


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Names of all topics and of the consumer group, and the settings that apply to all topics."""

    raw: str
    telemetry: str
    anomalies: str
    journal: str
    dead_letter: str
    stats: str
    control: str
    audit: str
    devices_changelog: str
    profiles_changelog: str
    app_id: str
    partitions: int
    replication: int
    flush_each: bool

    @property
    def others(self) -> frozenset[str]:
        """Every topic except the clean one."""
        data = (self.raw, self.anomalies, self.journal, self.dead_letter, self.stats, self.control, self.audit)
        return frozenset((*data, self.devices_changelog, self.profiles_changelog))

    @classmethod
    def of(cls, settings: SettingsFields) -> Self:
        """The names in force for ``settings``."""
        p = settings.topic_prefix
        return cls(
            raw=p + "klais_raw",
            telemetry=p + settings.kafka_topic,
            anomalies=p + "klais_anomalies",
            journal=p + "klais_journal",
            dead_letter=p + "klais_dead_letter",
            stats=p + "klais_stats",
            control=p + "klais_control",
            audit=p + "klais_audit",
            devices_changelog=p + "klais-devices-changelog",
            profiles_changelog=p + "klais-profiles-changelog",
            app_id=p + "klais",
            partitions=settings.partitions,
            replication=settings.replication,
            flush_each=settings.kafka_flush == "each",
        )
