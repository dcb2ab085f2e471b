"""The ledger of redrives: records of ``klais_audit``, each written before the batch that it describes is sent.

A run writes ``begin``, then for each batch a record with edge, boot, number and the place of each dead letter, then
``end``. A batch that was recorded but perhaps not sent (the run was killed) is sent again by the next run with the same
edge, boot and number; a lane that has taken it drops it as a repeated batch. So no dead letter is redriven twice, and
none is lost. Only one run is possible at a time: the producer is transactional, and a later run fences an earlier one
before it reads the ledger.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import KafkaException, Producer

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, KlaisError
from klais.kafka.clients import confluent_config
from klais.kafka.reader import PartitionReader
from klais.kafka.topic_identity import topic_id_of
from klais.kafka.topics import Topics
from klais.redrive.batches import Batch
from klais.redrive.dead_letters import Place
from klais.system import shallow_json
from klais.system.clock import now_ms

SCOPE = "redrive/"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Intent:
    """A recorded batch: its partition, its number, and its dead letters in the topic with ``topic_id`` ("" = unknown,
    in records of earlier versions)."""

    run: str
    partition: int
    edge: int
    boot: int
    number: int
    places: tuple[Place, ...]
    strip_nul: bool
    topic_id: str = ""


@dataclass(slots=True)
class Ledger:
    """Contents of the records: redriven dead letters, and the last batch of each unfinished run.

    ``topic_id``: of ``klais_dead_letter`` now. If the topic was deleted and created again, its offsets begin at 0
    again, and earlier records are about other dead letters.
    """

    done: set[Place] = field(default_factory=set)
    open: dict[str, Intent | None] = field(default_factory=dict)
    topic_id: str = ""

    def add(self, key: bytes | None, value: bytes | None) -> None:
        """Add one record of ``klais_audit``; other or damaged records are skipped."""
        if not (key or b"").startswith(SCOPE.encode()):
            return
        run = (key or b"")[len(SCOPE) :].decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            after = shallow_json.loads(value or b"")["after"]
            match after["phase"]:
                case "begin":
                    self.open[run] = None
                case "end":
                    intent = self.open.pop(run, None)
                    if intent is not None and after.get("unsent") is True:
                        self.withdraw(intent)
                case "batch":
                    intent = read_intent(run, after)
                    self.open[run] = intent
                    if self.knows(intent):
                        self.done.update(intent.places)

    def withdraw(self, intent: Intent) -> None:
        """A recorded batch was not sent, and never will be: its dead letters are not redriven."""
        if self.knows(intent):
            self.done.difference_update(intent.places)

    def knows(self, intent: Intent) -> bool:
        """Whether a batch is about dead letters of the present topic."""
        return intent.topic_id in ("", self.topic_id)


def read_intent(run: str, after: Mapping[str, Any]) -> Intent:
    """The batch described by a record.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it describes none.
    """
    numbers = [after[name] for name in ("to", "edge", "boot", "number")]
    places = tuple((p, o, i) for p, o, i, _ in after["dead_letters"])
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in [*numbers, *(n for place in places for n in place)]):
        raise ValueError("invalid numbers")
    to, edge, boot, number = numbers
    if edge >= 1 << 16 or boot >= 1 << 32:
        raise ValueError("no numbers of a frame batch")
    return Intent(run, to, edge, boot, number, places, bool(after["strip_nul"]), str(after.get("topic_id", "")))


async def read_ledger(settings: Settings) -> Ledger:
    """All records of redrives in ``klais_audit`` (30 days, unless its retention was changed).

    Raises
    ------
    klais.errors.KafkaUnavailable, klais.errors.TopicMismatch
        If reading fails.
    """
    topics = Topics.of(settings)
    topic, ledger = topics.audit, Ledger(topic_id=await asyncio.to_thread(topic_id_of, settings, topics.dead_letter))
    async with PartitionReader(settings) as reader:
        start, end = await reader.offsets(topic, 0)
        async for record in reader.read(topic, 0, start, end):
            ledger.add(record.key, record.value)
    return ledger


class RedriveTakenOver(KlaisError):
    """Another ``klais redrive`` has started and finishes the recorded batches of this one."""


class LedgerWriter:
    """Writes the ledger. Creating one fences all earlier ones.

    Raises
    ------
    KafkaUnavailable
        If Kafka does not respond, or refuses (rights: Write to the topic and to the transactional id).
    """

    def __init__(self, settings: Settings, author: str, reason: str) -> None:
        topics = Topics.of(settings)
        self._topic, self._author, self._reason = topics.audit, author, reason
        own = {"transactional.id": f"{topics.app_id}-redrive", "log_level": 0}
        self._producer = Producer(confluent_config(settings) | own)
        self._try(lambda: self._producer.init_transactions(TIMEOUT_S))

    def begin(self, run: str, what: Mapping[str, Any]) -> None:
        """Record the start of a run; ``what``: its filter."""
        self._write(run, {"phase": "begin", **what})

    def batch(self, run: str, batch: Batch, boot: int, number: int, strip_nul: bool, topic_id: str) -> None:
        """Record a batch before it is sent; ``topic_id``: of the topic with its dead letters."""
        dead_letters = [
            [*dead_letter.place, dead_letter.device_id.decode(errors="replace")] for dead_letter in batch.dead_letters
        ]
        after = {"phase": "batch", "to": batch.partition, "edge": batch.edge, "boot": boot, "number": number}
        self._write(run, after | {"strip_nul": strip_nul, "topic_id": topic_id, "dead_letters": dead_letters})

    def end(self, run: str, frames: int, unsent: bool = False) -> None:
        """Record the end of a run: all batches are acknowledged, except the last one if it is ``unsent``."""
        self._write(run, {"phase": "end", "frames": frames} | ({"unsent": True} if unsent else {}))

    def _write(self, run: str, after: Mapping[str, Any]) -> None:
        head = {"author": self._author, "reason": self._reason, "at": now_ms(), "scope": SCOPE + run, "address": ""}
        value = orjson.dumps(head | {"before": {}, "after": after})

        def write() -> None:
            self._producer.begin_transaction()
            self._producer.produce(self._topic, value, (SCOPE + run).encode(), partition=0)
            self._producer.commit_transaction(TIMEOUT_S)

        self._try(write)

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except KafkaException as error:
            cause = error.args[0]
            if cause.name() in ("_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED"):
                raise RedriveTakenOver(
                    "another `klais redrive` has started: it continues where this one stops"
                ) from None
            raise KafkaUnavailable(f"{self._topic} cannot be written: {cause.str()}") from None
