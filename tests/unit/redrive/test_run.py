"""A redrive whose number of partitions is wrong, or whose earlier runs recorded batches that cannot be sent again."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.config.settings import EDGE_IDS
from klais.core.wire.constants import encode_frame
from klais.errors import TopicMismatch
from klais.kafka import offsets
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import RawRecord
from klais.redrive import run
from klais.redrive.ledger import Intent, Ledger
from klais.redrive.run import Redrive, fetch


class Writer:
    def __init__(self) -> None:
        self.ends: list[tuple[str, int, bool]] = []

    def end(self, run: str, frames: int, unsent: bool) -> None:
        self.ends.append((run, frames, unsent))


class Reader:
    """Its record at offset 2 is damaged. It has one partition."""

    def __init__(self, _settings: Settings) -> None: ...

    async def __aenter__(self) -> "Reader":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def record_at(self, topic: str, partition: int, offset: int) -> RawRecord:
        if partition:
            raise TopicMismatch(f"there is no {topic}/{partition}")
        if offset == 2:
            raise CorruptRecords(TopicPartition(topic, partition), offset, offset + 1)
        headers = (("reason", b"not_strict"), ("stage", b"lane"), ("ts", b"1700000000000"), ("edge", b"1"))
        return RawRecord(offset, b"", encode_frame("d", offset, b"{}"), headers)


def intent(partition: int, offset: int) -> Intent:
    return Intent("a", partition, EDGE_IDS, 2, 3, ((0, offset, 0),), False)


def after(**fields: Any) -> bytes:
    return orjson.dumps({"after": fields})


def test_frames_never_go_to_the_partitions_of_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def writes(*_: object) -> None:
        raise AssertionError("nothing may be written before the check")

    monkeypatch.setattr(offsets, "_partitions", lambda *_: list(range(16)))
    monkeypatch.setattr(run, "LedgerWriter", writes)
    with pytest.raises(TopicMismatch, match="klais_raw has 16 partitions, and not 4"):
        Redrive(Settings(), "me", "", 100.0, print)


def test_a_batch_for_a_partition_that_does_not_exist_blocks_no_later_run() -> None:
    redrive, writer = Redrive.__new__(Redrive), Writer()
    redrive._settings = Settings()
    redrive._writer = writer  # type: ignore[assignment]
    redrive.ledger = Ledger(done={(0, 1, 0), (0, 5, 0)}, open={"a": intent(12, 5)})
    assert redrive.finish() == (0, 0)
    assert writer.ends == [("a", 0, True)]
    assert redrive.ledger.done == {(0, 1, 0)}, "its frames were never sent: they can be"


def test_the_ledger_keeps_that_a_batch_was_not_sent() -> None:
    ledger = Ledger(topic_id="now")
    batch = {"phase": "batch", "edge": EDGE_IDS, "boot": 2, "strip_nul": False, "topic_id": "now"}
    ledger.add(b"redrive/a", after(**batch, to=1, number=1, dead_letters=[[0, 4, 0, "d"]]))
    ledger.add(b"redrive/a", after(**batch, to=12, number=2, dead_letters=[[0, 5, 0, "d"]]))
    assert ledger.done == {(0, 4, 0), (0, 5, 0)}
    ledger.add(b"redrive/a", after(phase="end", frames=0, unsent=True))
    assert ledger.done == {(0, 4, 0)} and not ledger.open


def test_an_unsent_batch_of_a_deleted_topic_changes_nothing() -> None:
    ledger = Ledger(done={(0, 5, 0)}, topic_id="new")
    batch = {"phase": "batch", "edge": EDGE_IDS, "boot": 2, "strip_nul": False, "topic_id": "old"}
    ledger.add(b"redrive/a", after(**batch, to=12, number=2, dead_letters=[[0, 5, 0, "d"]]))
    ledger.add(b"redrive/a", after(phase="end", frames=0, unsent=True))
    assert ledger.done == {(0, 5, 0)}


def test_numbers_that_no_frame_batch_can_have_are_no_record_of_a_redrive() -> None:
    good = {"phase": "batch", "to": 1, "edge": EDGE_IDS, "boot": 2, "number": 3, "strip_nul": False}
    ledger = Ledger()
    for wrong in ({"edge": 1 << 16}, {"boot": 1 << 32}):
        ledger.add(b"redrive/a", after(**good | wrong, dead_letters=[[0, 5, 0, "d"]]))
    assert not ledger.open and not ledger.done


def test_a_damaged_dead_letter_of_an_earlier_run_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PartitionReader", Reader)
    found = asyncio.run(fetch(Settings(), intent(1, 1)))
    assert found is not None and len(found) == 1
    assert asyncio.run(fetch(Settings(), intent(1, 2))) is None
    elsewhere = replace(intent(1, 1), places=((9, 1, 0),))
    assert asyncio.run(fetch(Settings(), elsewhere)) is None
