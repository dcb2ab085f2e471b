"""Dead letters as frames: what goes, what stays and why; hostile records give a verdict, never an error."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from klais.cli import redrive as module
from klais.cli.redrive import Report, outcome_of
from klais.config.load import Settings
from klais.config.settings import EDGE_IDS
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.errors import TopicMismatch
from klais.kafka.reader import RawRecord
from klais.redrive import run
from klais.redrive.batches import MAX_BATCH_SPAN_MS, Batch, pack
from klais.redrive.dead_letters import (
    MAX_REDRIVES,
    DeadLetter,
    check,
    dead_letters_of,
    edge_of,
    times_of,
    without_trailing_nul,
)
from klais.redrive.ledger import Ledger
from tests.support.lane import T0_NS, batch, bounds, frames, limits

GOOD = encode_frame("dev-1", 7, b'{"t":1}')
TS = T0_NS // 1_000_000


def dead_letter(
    value: bytes = GOOD, offset: int = 5, edge_checks: bool = False, **headers: bytes | None
) -> list[DeadLetter]:
    given = {"reason": b"not_strict", "ts": str(TS).encode(), "stage": b"lane", "edge": b"1"} | headers
    kept = tuple((name, text) for name, text in given.items() if text is not None)
    return check(dead_letters_of(2, RawRecord(offset, None, value, kept), edge_checks), False, 3)


def verdict(*args: bytes, edge_checks: bool = False, **headers: bytes | None) -> str:
    return dead_letter(*args, edge_checks=edge_checks, **headers)[0].verdict


def test_a_fixed_frame_goes_and_keeps_what_is_known_of_it() -> None:
    (one,) = dead_letter()
    assert (one.verdict, one.device_id, one.ts_ms, one.place, one.times) == ("", b"dev-1", TS, (2, 5, 0), 0)


def test_what_stays_says_why() -> None:
    assert verdict(encode_frame("d", 1, b'{"t":')) == "bad_json"
    assert verdict(b"GET / HTTP/1.1", reason=b"bad_magic", stage=b"edge") == "too_short"
    assert verdict(GOOD, bytes=b"9000") == "clipped"
    assert verdict(GOOD, reason=b"bad_mac") == verdict(GOOD, reason=b"bad_epoch") == "forged"
    assert verdict(GOOD, stage=b"edge") == ""
    assert verdict(GOOD, stage=b"edge", edge_checks=True) == "unchecked", "no frame gets past the check of its tag"
    assert verdict(GOOD, stage=b"somebody else") == verdict(GOOD, stage=None) == "foreign"
    assert verdict(GOOD, reason=b"poison") == "foreign", "a record of another topic is no frame batch"


@pytest.mark.parametrize(
    "headers",
    [
        {"ts": b"never"},
        {"ts": b"-1"},
        {"ts": b"9" * 30},
        {"ts": "\u0661".encode()},
        {"ts": None},
        {"ts": b"9223372036854775"},
    ],
)
def test_a_dead_letter_without_a_time_is_foreign(headers: dict[str, bytes | None]) -> None:
    assert verdict(GOOD, **headers) == "foreign"


def test_hostile_records_are_refused_one_by_one() -> None:
    for value in (b"", b"\xaa\x55", b"\0" * 100, b"\xaa\x55" + b"\xff" * 60, b"x" * 70_000, b"KFB1" + b"\xff" * 50):
        for reason in (b"bad_json", b"poison", b"corrupt_batch", b"\xff\x1b[31m", b"x" * 1000):
            (one,) = dead_letter(value, reason=reason)
            assert one.verdict, (value[:9], reason)
            assert len(one.reason) <= 64
    assert verdict(GOOD, edge=b"\xff") == "" and dead_letter(GOOD, edge=b"99999999999999999999999")[0].times == 0


def test_a_frame_that_came_back_too_often_stays() -> None:
    assert [times_of(edge_of(times)) for times in (1, MAX_REDRIVES)] == [1, MAX_REDRIVES] and edge_of(1) == EDGE_IDS
    assert edge_of(MAX_REDRIVES) == 65_535 and times_of(EDGE_IDS - 1) == 0
    assert verdict(GOOD, edge=str(edge_of(2)).encode()) == ""
    assert verdict(GOOD, edge=str(edge_of(3)).encode()) == "too_often"


def test_a_poison_record_is_its_frames() -> None:
    value = batch([*frames(("a", 1), ("b", 2)), b"rubbish of 22 bytes or more"], epochs=[9, 0, 0], edge=edge_of(1))
    some = dead_letter(value, reason=b"poison", edge=None)
    assert [(one.place, one.device_id, one.epoch, one.verdict) for one in some] == [
        ((2, 5, 0), b"a", 9, ""),
        ((2, 5, 1), b"b", 0, ""),
        ((2, 5, 2), b"", 0, "bad_magic"),
    ]
    assert {one.times for one in some} == {1}


def test_nul_bytes_at_the_end_are_cut_and_no_others() -> None:
    (one,) = dead_letter(encode_frame("d", 1, b'{"t":1}\0\0'))
    assert one.verdict == "bad_json"
    assert check([without_trailing_nul(one)], False, 3)[0].verdict == "bad_json", "a verdict stays with its dead letter"
    fixed = without_trailing_nul(dead_letters_of(0, RawRecord(0, None, one.frame, _headers()), False)[0])
    assert fixed.frame.endswith(b"}") and check([fixed], False, 3)[0].verdict == ""
    short = DeadLetter((0, 0, 0), GOOD[:22].ljust(22, b"\0"), "bad_json", 0)
    assert without_trailing_nul(short) is short


def _headers() -> tuple[tuple[str, bytes], ...]:
    return (("reason", b"bad_json"), ("ts", b"5"), ("stage", b"lane"))


def made(count: int, **changed: object) -> list[DeadLetter]:
    return [
        DeadLetter(
            (0, n, 0),
            encode_frame(f"d{n % 7}", n, b'{"t":%d}' % n),
            "x",
            TS + n,
            device_id=b"d%d" % (n % 7),
            **changed,  # type: ignore[arg-type]
        )
        for n in range(count)
    ]


def test_batches_hold_every_dead_letter_once_in_order() -> None:
    dead_letters = made(1000)
    found = list(pack(dead_letters, 4, 50))
    assert sorted(one.place for each in found for one in each.dead_letters) == [one.place for one in dead_letters]
    for partition in range(4):
        offsets = [one.place[1] for each in found if each.partition == partition for one in each.dead_letters]
        assert offsets == sorted(offsets)
    assert max(len(each.dead_letters) for each in found) == 50 and {each.edge for each in found} == {EDGE_IDS}


def test_frames_keep_their_times_and_epochs() -> None:
    late = [
        DeadLetter((0, n, 0), GOOD, "x", ts, b"dev-1", 3)
        for n, ts in enumerate((TS, TS + MAX_BATCH_SPAN_MS, TS - 1, TS))
    ]
    found = list(pack(late, 1, 100))
    assert [len(each.dead_letters) for each in found] == [2, 2], "an offset is u32 ns, and never below 0"
    decoded = decode_batch(found[0].encode(77, 9))
    assert decoded.offsets is not None and decoded.epochs is not None
    assert (decoded.edge, decoded.boot, decoded.number, decoded.epochs.tolist()) == (EDGE_IDS, 77, 9, [3, 3])
    assert decoded.received_at // 1_000_000 == TS and decoded.offsets.tolist() == [0, MAX_BATCH_SPAN_MS * 1_000_000]
    assert decode_batch(Batch(0, EDGE_IDS, tuple(made(2))).encode(1, 1)).epochs is None


def test_a_lane_takes_a_batch_once() -> None:
    state = LaneState()
    (one,) = pack(made(7), 1, 100)
    for offset in range(2):
        step = take_raw(state, offset, one.encode(5, 1), limits(), bounds(), T0_NS)
        assert step.passed_count == (7 if offset == 0 else 0)
    missing = state.boots.take(EDGE_IDS, 5, 2, 0)
    assert missing == 0, "numbers of a lane have no holes"


def test_the_ledger_passes_over_what_is_none_of_its_records() -> None:
    def record(**after: object) -> bytes:
        return orjson.dumps({"after": after})

    good = {"phase": "batch", "to": 1, "edge": EDGE_IDS, "boot": 2, "number": 3, "strip_nul": False}
    ledger = Ledger()
    ledger.add(b"device/x", record(**good, dead_letters=[[0, 1, 0, "d"]]))
    ledger.add(b"redrive/a", None)
    ledger.add(b"redrive/a", b"\xff{")
    ledger.add(b"redrive/a", b"[]")
    ledger.add(b"redrive/a", record(phase="batch"))
    ledger.add(b"redrive/a", record(**good, dead_letters=[[0, "1", 0, "d"]]))
    ledger.add(b"redrive/a", record(**good | {"to": -1}, dead_letters=[[0, 1, 0, "d"]]))
    ledger.add(b"redrive/a", record(**good, dead_letters=5))
    ledger.add(None, b"x")
    assert not ledger.done and not ledger.open
    ledger.add(b"redrive/a", record(phase="begin"))
    assert ledger.open == {"a": None}
    ledger.add(b"redrive/a", record(**good, dead_letters=[[0, 1, 0, "d"], [0, 1, 1, "d"]]))
    ledger.add(b"redrive/b", record(phase="begin"))
    ledger.add(b"redrive/b", record(phase="end", frames=0))
    assert ledger.done == {(0, 1, 0), (0, 1, 1)} and list(ledger.open) == ["a"]
    intent = ledger.open["a"]
    assert intent is not None and (intent.partition, intent.boot, intent.number) == (1, 2, 3)
    ledger.add(b"redrive/a", record(phase="end", frames=2))
    assert not ledger.open and len(ledger.done) == 2


def test_the_ledger_of_a_deleted_topic_says_nothing_about_the_new_one() -> None:
    def record(topic_id: str, offset: int) -> bytes:
        after = {"phase": "batch", "to": 1, "edge": EDGE_IDS, "boot": 2, "number": 3, "strip_nul": False}
        return orjson.dumps({"after": after | {"topic_id": topic_id, "dead_letters": [[0, offset, 0, "d"]]}})

    ledger = Ledger(topic_id="new")
    ledger.add(b"redrive/a", record("old", 1))
    assert not ledger.done
    intent = ledger.open["a"]
    assert intent is not None and not ledger.knows(intent), "its dead letters cannot be read again"
    ledger.add(b"redrive/b", record("new", 2))
    assert ledger.done == {(0, 2, 0)}


def report_of(*parts: list[DeadLetter]) -> Report:
    report = Report(False, "table")
    for part in parts:
        report.add(part)
    return report


def test_a_summary_of_invented_reasons_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 10)
    report = report_of([replace(dead_letter()[0], reason=f"foreign {n}") for n in range(300)])
    rows = report.outcomes()
    assert (rows[0]["reason"], rows[0]["frames"]) == ("(others)", 290) and len(rows) == 11
    assert sum(row["frames"] for row in rows) == report.frames == 300


def test_the_summary_counts_every_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [*dead_letter(), *dead_letter(encode_frame("d", 1, b"{")), *dead_letter(encode_frame("e", 1, b"{"))]
    rows = report_of(some[:2], some[2:]).outcomes()
    assert [(row["reason"], row["outcome"], row["frames"], row["devices"]) for row in rows] == [
        ("not_strict", "still bad_json", 2, 2),
        ("not_strict", "goes", 1, 1),
    ]
    assert outcome_of("forged") == "has an invalid tag"
    monkeypatch.setattr(module, "MAX_DEVICES", 1)
    assert report_of(some).outcomes()[0]["devices"] is None, "too many to remember: unknown"


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_a_list_is_printed_part_by_part(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 3)
    report = Report(True, form)
    parts = ([replace(dead_letter()[0], place=(0, n, 0))] * 2 for n in range(4))
    for n, _ in enumerate(report.through(parts)):
        printed = capsys.readouterr().out
        assert form == "json" or f" {n}" in printed or f",{n}," in printed or f": {n}," in printed
    report.end()
    out, err = capsys.readouterr()
    if form == "json":
        whole = json.loads(out)
        assert (whole["frames"], len(whole["dead_letters"])) == (8, 3)
        assert err == "klais: 5 rows are omitted in one JSON object: -o jsonl prints all\n"
    else:
        assert out == "" and err == ""


class Reader:
    """10 records, of which each part holds 4."""

    most = 0

    async def __aenter__(self) -> "Reader":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self, _topic: str, partition: int, start: int, end: int) -> AsyncIterator[RawRecord]:
        headers = (("reason", b"not_strict"), ("stage", b"lane"), ("ts", b"1700000000000"), ("edge", b"1"))
        for offset in range(start, end):
            yield RawRecord(offset, b"", encode_frame(f"d{partition}", offset, b"{}"), headers)


def test_dead_letters_are_found_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PART_RECORDS", 4)
    monkeypatch.setattr(run, "PartitionReader", lambda _: Reader())
    monkeypatch.setattr(run, "begin_offsets", lambda *_: {0: 5, 1: 0})
    monkeypatch.setattr(run, "end_offsets", lambda *_: {0: 15, 1: 0})
    ids = iter(["x", "x", "new"])
    monkeypatch.setattr(run, "topic_id_of", lambda *_: next(ids))
    ledger, told = Ledger(done={(0, 6, 0)}, topic_id="x"), []
    found = run.find_dead_letters(
        Settings(), run.Choice(max_count=5), ledger, lambda read, total: told.append((read, total))
    )
    first = next(found)
    assert [(one.place[1], one.verdict) for one in first] == [(5, ""), (6, "redriven"), (7, ""), (8, "")]
    assert [one.place[1] for one in next(found)] == [9, 10]  # with the three before them as many as may be sent
    assert told == [(4, 10), (8, 10)]
    with pytest.raises(TopicMismatch, match="created again"):
        next(found)
