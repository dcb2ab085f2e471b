"""The newest records of ``klais_audit``: author, change, time and reason."""

from typing import Any

from klais.config.load import Settings
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.system import shallow_json

TIMEOUT_S = 5.0


async def newest_changes(settings: Settings, max_count: int) -> list[dict[str, Any]]:
    """Up to ``max_count`` records, newest first; values that are not JSON objects (of other programs) are skipped.

    Raises
    ------
    KafkaUnavailable
        If no broker answers.
    KafkaForbidden
        If the login may not describe the topic.
    TopicMismatch
        If the topic does not exist.
    """
    topic = Topics.of(settings).audit
    out: list[dict[str, Any]] = []
    async with PartitionReader(settings, TIMEOUT_S) as reader:
        start, end = await reader.offsets(topic, 0)
        async for record in reader.read(topic, 0, max(start, end - max_count), end):
            found = _object(record.value)
            if found is not None:
                out.append(found | {"offset": record.offset})
    return out[::-1]


def _object(value: bytes | None) -> dict[str, Any] | None:
    try:
        found = shallow_json.loads(value or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
