"""``POST /config``: the global rate, read and written as an operator's override."""

from klais.config.load import Settings
from klais.control.overrides import apply
from klais.control.setpoints import OVERRIDE, ControlFollower
from klais.kafka.stats import ControlProducer


class RateSetter:
    """Reads and writes the global rate; its methods may be called from any thread."""

    def __init__(self, settings: Settings, control: ControlFollower, producer: ControlProducer) -> None:
        self._settings, self._control, self._producer = settings, control, producer

    def rate(self) -> float:
        """Global rate in force (frames/s)."""
        return self._control.rate(self._settings.dam_max_rate)

    def set_rate(self, new_rate: int, client: str) -> float:
        """Write the global rate as an override for ``client`` (its address). Returns the previous rate.

        The override's other fields stay, including its end: the new rate ends when the old one would have.

        Raises
        ------
        confluent_kafka.KafkaException
            If Kafka did not acknowledge it.
        """
        previous = self.rate()
        changes = {"mode": "manual", "rate": new_rate}
        apply(self._control, self._producer, OVERRIDE, changes, f"rest {client}", "POST /config", client)
        return previous
