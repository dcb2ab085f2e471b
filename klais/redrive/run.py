"""A redrive: find letters, say which would go, send those, each once."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import Producer

from klais import fault
from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.clients import confluent_config
from klais.kafka.offsets import begin_offsets, end_offsets, offsets_at
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.redrive.batches import Batch, pack
from klais.redrive.ledger import Intent, Ledger, LedgerWriter, read_ledger
from klais.redrive.letters import Letter, check, letters_of, without_trailing_nul

MOST_OF_A_BATCH = 256
TIMEOUT_S = 30.0
PARTS_S = 0.25  # a batch is no more than the frames of so much time


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: ``reasons`` and ``device_id`` (empty = all), times of the letters in ms (None = no bound),
    ``most`` of those that can go. ``most_times``: letters that were redriven so often stay; ``strip_nul``: mend those
    that end in NUL."""

    reasons: tuple[str, ...] = ()
    device_id: bytes = b""
    begin_ms: int | None = None
    end_ms: int | None = None
    most: int | None = None
    most_times: int = 3
    strip_nul: bool = False


async def find_letters(settings: Settings, choice: Choice, ledger: Ledger) -> list[Letter]:
    """The letters chosen, in the order of each partition, each with its verdict.

    Raises
    ------
    klais.errors.KafkaUnavailable, klais.errors.TopicMismatch, klais.errors.OffsetGone
        Of the readers.
    """
    topic = Topics.of(settings).dead_letter
    starts, ends = begin_offsets(settings, topic), end_offsets(settings, topic)
    if choice.begin_ms is not None:
        starts = offsets_at(settings, topic, choice.begin_ms)
    if choice.end_ms is not None:
        ends = offsets_at(settings, topic, choice.end_ms)
    out: list[Letter] = []
    async with PartitionReader(settings) as reader:
        for partition, start in sorted(starts.items()):
            found: list[Letter] = []
            if start < ends[partition]:
                async for record in reader.read(topic, partition, start, ends[partition]):
                    found += letters_of(partition, record, settings.auth != "off")
            out += _wanted(settings, choice, found)
    out = [replace(letter, verdict="redriven") if letter.place in ledger.done else letter for letter in out]
    return _at_most(out, choice.most)


def _wanted(settings: Settings, choice: Choice, letters: Sequence[Letter]) -> list[Letter]:
    some = [letter for letter in letters if not choice.reasons or letter.reason in choice.reasons]
    some = [without_trailing_nul(letter) for letter in some] if choice.strip_nul else some
    checked = check(some, settings.json_strict, choice.most_times)
    return [letter for letter in checked if choice.device_id in (b"", letter.device_id)]


def _at_most(letters: list[Letter], most: int | None) -> list[Letter]:
    """Without those that could go beyond the first ``most``."""
    if most is None:
        return letters
    left, out = most, []
    for letter in letters:
        left -= letter.verdict == ""
        if left < 0 and letter.verdict == "":
            continue
        out.append(letter)
    return out


class Redrive:
    """Sends letters, no more than ``rate`` frames a second.

    Making one fences a redrive that still runs; :meth:`finish` then sends what an earlier one may not have sent.

    Parameters
    ----------
    settings : Settings
        Where Kafka is.
    author, reason : str
        Of the records in ``klais_audit``.
    rate : float
        Frames/s.
    progress : callable
        Called with the frames sent so far.
    """

    def __init__(
        self, settings: Settings, author: str, reason: str, rate: float, progress: Callable[[int], None]
    ) -> None:
        self._settings, self._rate, self._progress = settings, rate, progress
        self._raw = Topics.of(settings).raw
        self._writer = LedgerWriter(settings, author, reason)
        own = {"enable.idempotence": True, "acks": "all", "compression.type": "lz4", "log_level": 0}
        self._producer = Producer(confluent_config(settings) | own)
        self.ledger = asyncio.run(read_ledger(settings))

    def finish(self) -> tuple[int, int]:
        """Send the last batch of each run that did not end; frames sent again, and frames whose letters are gone.

        Lanes drop those that they have.
        """
        again = gone = 0
        for run, intent in self.ledger.open.items():
            frames = 0
            if intent is not None:
                letters = asyncio.run(fetch(self._settings, intent))
                if letters is None:
                    gone += len(intent.places)
                else:
                    frames = len(letters)
                    batch = Batch(intent.partition, intent.edge, letters)
                    self._send(batch, batch.encode(intent.boot, intent.number))
            again += frames
            self._writer.end(run, frames)
        self.ledger.open.clear()
        return again, gone

    def send(self, letters: Sequence[Letter], choice: Choice, what: Mapping[str, object]) -> int:
        """Send those without a verdict; how many that were."""
        run = secrets.token_hex(4)
        boot, sent, began_s = int(run, 16), 0, time.monotonic()
        numbers: Counter[tuple[int, int]] = Counter()
        self._writer.begin(run, what)
        most = max(1, min(MOST_OF_A_BATCH, int(self._rate * PARTS_S)))
        fit = [letter for letter in letters if not letter.verdict]
        for batch in pack(fit, self._settings.partitions, most):
            key = batch.partition, batch.edge
            numbers[key] += 1
            self._writer.batch(run, batch, boot, numbers[key], choice.strip_nul)
            fault.at("redrive_named")
            self._send(batch, batch.encode(boot, numbers[key]))
            fault.at("redrive_sent")
            sent += len(batch.letters)
            self._progress(sent)
            time.sleep(max(0.0, sent / self._rate - (time.monotonic() - began_s)))
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
            raise KafkaUnavailable(f"{self._raw} does not take the frames ({why}): run this again, nothing comes twice")


async def fetch(settings: Settings, intent: Intent) -> tuple[Letter, ...] | None:
    """The letters of a batch that an earlier run named, None where Kafka has not all of them any more."""
    topic, out = Topics.of(settings).dead_letter, []
    async with PartitionReader(settings) as reader:
        for partition, offset, nth in intent.places:
            record = await reader.record_at(topic, partition, offset)
            letters = [] if record is None else letters_of(partition, record, False)
            if nth >= len(letters):
                return None
            out.append(without_trailing_nul(letters[nth]) if intent.strip_nul else letters[nth])
    return tuple(out) or None
