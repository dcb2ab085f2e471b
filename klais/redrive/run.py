"""A redrive: find dead letters, report which can be sent, and send each of those once."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import Producer

from klais import fault
from klais.config.load import Settings
from klais.errors import KafkaUnavailable, TopicMismatch
from klais.kafka.clients import confluent_config
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.offsets import begin_offsets, end_offsets, need_partitions, offsets_at
from klais.kafka.reader import PartitionReader, RawRecord
from klais.kafka.topic_identity import topic_id_of
from klais.kafka.topics import Topics
from klais.redrive.batches import Batch, pack
from klais.redrive.dead_letters import DeadLetter, check, dead_letters_of, without_trailing_nul
from klais.redrive.ledger import Intent, Ledger, LedgerWriter, read_ledger

MAX_BATCH_RECORDS = 256
TIMEOUT_S = 30.0
PARTS_S = 0.25  # a batch has at most the frames of this time
PART_RECORDS, PART_BYTES = 4096, 16 << 20  # dead letters in memory at a time


@dataclass(frozen=True, slots=True)
class Choice:
    """Selection of dead letters: ``reasons`` and ``device_id`` (empty = all), their times in ms (None = no bound),
    ``max_count`` of those that can be sent. ``max_redrives``: of one record. ``strip_nul``: cut trailing NUL bytes."""

    reasons: tuple[str, ...] = ()
    device_id: bytes = b""
    begin_ms: int | None = None
    end_ms: int | None = None
    max_count: int | None = None
    max_redrives: int = 3
    strip_nul: bool = False


def find_dead_letters(
    settings: Settings, choice: Choice, ledger: Ledger, progress: Callable[[int, int], None] = lambda read, total: None
) -> Iterator[list[DeadLetter]]:
    """The selected dead letters with their verdicts, in the order of each partition, in parts that fit the memory.

    Records that are written after the first part was requested are not read. ``progress`` is called with the number of
    records read so far and in total.

    Raises
    ------
    klais.errors.KafkaUnavailable, klais.errors.OffsetGone
        If reading fails.
    klais.errors.TopicMismatch
        If a partition is missing, or the topic was created again after the ledger was read.
    """
    topic = Topics.of(settings).dead_letter
    starts, ends = begin_offsets(settings, topic), end_offsets(settings, topic)
    if choice.begin_ms is not None:
        starts = offsets_at(settings, topic, choice.begin_ms)
    if choice.end_ms is not None:
        ends = offsets_at(settings, topic, choice.end_ms)
    total = sum(max(0, ends[partition] - start) for partition, start in starts.items())
    read, left = 0, choice.max_count
    for partition, position in sorted(starts.items()):
        while position < ends[partition]:
            records, position = asyncio.run(_read(settings, partition, position, ends[partition]))
            if topic_id_of(settings, topic) != ledger.topic_id:
                raise TopicMismatch(f"{topic} was created again meanwhile: run this again")
            read += len(records)
            progress(read, total)
            found = [one for record in records for one in dead_letters_of(partition, record, settings.auth != "off")]
            part, left = _at_most(_wanted(settings, choice, found, ledger), left)
            if part:
                yield part


async def _read(settings: Settings, partition: int, start: int, end: int) -> tuple[list[RawRecord], int]:
    """The next records from offset ``start``, up to ``PART_RECORDS`` or ``PART_BYTES``, and the offset after them."""
    records: list[RawRecord] = []
    size = 0
    async with PartitionReader(settings) as reader:
        async for record in reader.read(Topics.of(settings).dead_letter, partition, start, end):
            records.append(record)
            size += len(record.value or b"")
            if len(records) >= PART_RECORDS or size >= PART_BYTES:
                return records, record.offset + 1
    return records, end


def _wanted(settings: Settings, choice: Choice, dead_letters: Sequence[DeadLetter], ledger: Ledger) -> list[DeadLetter]:
    some = [dead_letter for dead_letter in dead_letters if not choice.reasons or dead_letter.reason in choice.reasons]
    some = [without_trailing_nul(dead_letter) for dead_letter in some] if choice.strip_nul else some
    checked = check(some, settings.json_strict, choice.max_redrives)
    return [
        replace(dead_letter, verdict="redriven") if dead_letter.place in ledger.done else dead_letter
        for dead_letter in checked
        if choice.device_id in (b"", dead_letter.device_id)
    ]


def _at_most(dead_letters: list[DeadLetter], left: int | None) -> tuple[list[DeadLetter], int | None]:
    """Remove those that could be sent beyond the first ``left`` (None = no limit); returns the rest of the limit."""
    if left is None:
        return dead_letters, None
    out = []
    for dead_letter in dead_letters:
        left -= dead_letter.verdict == ""
        if left < 0 and dead_letter.verdict == "":
            continue
        out.append(dead_letter)
    return out, max(0, left)


class Redrive:
    """Sends dead letters, at most ``rate`` frames per second.

    Creating one fences a running redrive; :meth:`finish` then sends the last batches of earlier ones again.

    Parameters
    ----------
    settings : Settings
        Settings with the address of Kafka.
    author, reason : str
        For the records in ``klais_audit``.
    rate : float
        Frames/s.
    progress : callable
        Called with the number of frames sent so far.
    """

    def __init__(
        self, settings: Settings, author: str, reason: str, rate: float, progress: Callable[[int], None]
    ) -> None:
        self._settings, self._rate, self._progress = settings, rate, progress
        self._raw = Topics.of(settings).raw
        need_partitions(settings, self._raw)  # another number would send frames to lanes that do not own their devices
        self._writer = LedgerWriter(settings, author, reason)
        own = {"enable.idempotence": True, "acks": "all", "compression.type": "lz4", "log_level": 0}
        self._producer = Producer(confluent_config(settings) | own)
        self.ledger = asyncio.run(read_ledger(settings))

    def finish(self) -> tuple[int, int]:
        """Send the last batch of each unfinished run; frames sent again, and frames whose dead letters are gone.

        Lanes drop frames that they already have. A batch for a partition that does not exist was never sent: its dead
        letters can be redriven.
        """
        again = gone = 0
        for run, intent in self.ledger.open.items():
            frames = 0
            unsent = intent is not None and intent.partition >= self._settings.partitions
            if intent is not None and unsent:
                self.ledger.withdraw(intent)
            elif intent is not None:
                dead_letters = asyncio.run(fetch(self._settings, intent)) if self.ledger.knows(intent) else None
                if dead_letters is None:
                    gone += len(intent.places)
                else:
                    frames = len(dead_letters)
                    batch = Batch(intent.partition, intent.edge, dead_letters)
                    self._send(batch, batch.encode(intent.boot, intent.number))
            again += frames
            self._writer.end(run, frames, unsent)
        self.ledger.open.clear()
        return again, gone

    def send(self, parts: Iterable[Sequence[DeadLetter]], choice: Choice, what: Mapping[str, object]) -> int:
        """Send those without a verdict, of each part before the next one is read; returns their number.

        ``klais_audit`` gets a run only if there is one to send.
        """
        run = secrets.token_hex(4)
        boot, sent, due_s = int(run, 16), 0, 0.0
        numbers: Counter[tuple[int, int]] = Counter()
        max_count = max(1, min(MAX_BATCH_RECORDS, int(self._rate * PARTS_S)))
        for part in parts:
            fit = [dead_letter for dead_letter in part if not dead_letter.verdict]
            if fit and not sent:
                self._writer.begin(run, what)
            for batch in pack(fit, self._settings.partitions, max_count):
                began_s = time.monotonic()
                key = batch.partition, batch.edge
                numbers[key] += 1
                self._writer.batch(run, batch, boot, numbers[key], choice.strip_nul, self.ledger.topic_id)
                fault.at("redrive_named")
                self._send(batch, batch.encode(boot, numbers[key]))
                fault.at("redrive_sent")
                sent += len(batch.dead_letters)
                self._progress(sent)
                # Time that was spent on reading is not caught up with a burst.
                due_s = max(due_s, began_s) + len(batch.dead_letters) / self._rate
                time.sleep(max(0.0, due_s - time.monotonic()))
        if sent:
            self._writer.end(run, sent)
        return sent

    def _send(self, batch: Batch, value: bytes) -> None:
        failed: list[str] = []

        def report(error: object, _message: object) -> None:
            if error is not None:
                failed.append(str(error))

        self._producer.produce(self._raw, value, partition=batch.partition, on_delivery=report)
        if self._producer.flush(TIMEOUT_S) or failed:
            why = failed[0] if failed else f"no acknowledgement within {TIMEOUT_S:g} s"
            raise KafkaUnavailable(
                f"{self._raw} does not accept the frames ({why}): run this again, no frame is sent twice"
            )


async def fetch(settings: Settings, intent: Intent) -> tuple[DeadLetter, ...] | None:
    """The dead letters of a recorded batch of an earlier run, None if Kafka no longer has all of them."""
    topic, out = Topics.of(settings).dead_letter, []
    async with PartitionReader(settings) as reader:
        for partition, offset, nth in intent.places:
            try:
                record = await reader.record_at(topic, partition, offset)
            except (CorruptRecords, TopicMismatch):  # a broker's disk is damaged, or another program wrote the intent
                record = None
            dead_letters = [] if record is None else dead_letters_of(partition, record, False)
            if nth >= len(dead_letters):
                return None
            out.append(without_trailing_nul(dead_letters[nth]) if intent.strip_nul else dead_letters[nth])
    return tuple(out) or None
