"""Records that an output leaves out: every other record goes out once, in order, however large batches may be."""

import asyncio
from types import SimpleNamespace

import pytest

from klais.core.lane.journal import Kind, RefusedRecord, Resumed, StepRecord
from klais.core.lane.render import dead_letter_records
from klais.core.lane.state import LaneState
from klais.core.lane.step import resume, take_raw
from klais.errors import LaneFailed, OutputRefused
from klais.worker.outputs import Records, Telemetry, send_or_halve
from klais.worker.quarantine import FAILURES, Quarantine
from klais.worker.refused_records import RefusedRecords
from tests.support.lane import T0_NS, batch, bounds, frames, limits


class Broker:
    """Takes batches in the place of a sender; refuses those of more than ``max_count`` records, and ``poison``."""

    topic, partition = "t", 0

    def __init__(self, max_count: int = 1000, poison: frozenset[bytes] = frozenset()) -> None:
        self.max_count, self.poison = max_count, poison
        self.taken: list[bytes] = []
        self.at = 0

    async def send(self, writer) -> int:
        count, data = writer.count, bytes(writer._out[: writer.size])
        writer.close(1, 0, self.at)
        writer.reset()
        if count > self.max_count or any(value in data for value in self.poison):
            raise OutputRefused("refused", count)
        self.taken.append(data)
        self.at += count
        return self.at - count


def steps(state: LaneState, rounds: int) -> list:
    """Steps of three frames each, whose payloads are ``{"t":0}``, ``{"t":1}`` ..."""
    out = []
    for n in range(rounds):
        some = frames(*((f"d{k}", n, b'{"t":%d}' % (3 * n + k)) for k in range(3)))
        out.append(take_raw(state, n, batch(some, n), limits(), bounds(), T0_NS))
    return out


async def run_out(output, some: list) -> None:
    for step in some:
        output.put(step)
    while output._steps:
        await output._send_some()


def make(broker, quarantine, set_aside, journal=()):
    refused_records = RefusedRecords(journal, quarantine, set_aside)
    nothing = (None, lambda: None, lambda s: None, 7)
    return Telemetry(broker, *nothing, "telemetry", refused_records), refused_records


@pytest.mark.parametrize("max_count", [1, 2, 5, 1000])
async def test_a_poison_record_alone_is_left_out_and_all_others_go_out_once(max_count):
    asides: list[RefusedRecord] = []
    quarantine, broker = Quarantine(0), Broker(max_count, frozenset({b'{"t":4}'}))
    for life in range(FAILURES):
        some = steps(LaneState(), 4)
        broker.taken.clear()
        output, refused_records = make(broker, quarantine, asides.append)
        if life < FAILURES - 1:
            with pytest.raises(OutputRefused):
                await run_out(output, some)
            continue
        going = asyncio.create_task(run_out(output, some))
        while not asides:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert b'{"t":5}' not in b"".join(broker.taken), "nothing goes on before the loss is journalled"
        refused_records.written(asides)
        await going
    (aside,) = asides
    assert (aside.output, aside.step, aside.nth) == ("telemetry", 2, 1)
    out = b"".join(broker.taken)
    assert [out.count(b'{"t":%d}' % n) for n in range(12)] == [1] * 4 + [0] + [1] * 7 and output.records == 11


async def test_what_the_journal_set_aside_is_left_out_without_a_try():
    done = StepRecord(9, Kind.RESUMED, 0, 0, limits(), 0.0, 0, b"")
    done.resumed = Resumed(
        aside=tuple(RefusedRecord("telemetry", step, nth, "", "", 0, "") for step, nth in ((1, 0), (1, 1)))
    )
    broker = Broker()
    output, _ = make(broker, Quarantine(0), None, [done])
    await run_out(output, steps(LaneState(), 1))
    assert b"".join(broker.taken).count(b"data") == 1 and output.records == 1


async def test_the_dead_letter_of_a_refused_record_has_no_other_place():
    state = LaneState()
    aside = RefusedRecord("anomalies", 1, 0, "YQ==", "e30=", 9, "why")
    step = resume(state, Resumed(aside=(aside,)), 0, 0, limits(), T0_NS)
    ((key, value, headers, _),) = dead_letter_records(step)
    assert (key, value, dict(headers)["reason"], dict(headers)["bytes"]) == (b"a", b"{}", b"poison", b"9")
    refused_records = RefusedRecords((), Quarantine(0), lambda aside: None)
    broker = Broker(0)
    output = Records(broker, None, lambda: None, lambda s: None, 7, "dead_letter", refused_records, dead_letter_records)
    for _ in range(FAILURES + 1):
        with pytest.raises(LaneFailed, match="cannot become a dead letter: refused"):
            await run_out(output, [step])


async def test_a_refused_batch_is_halved_and_the_next_ones_grow_again():
    halves, limit = [], 4096

    class Writer(SimpleNamespace):
        def refused(self):
            halves.append(True)

        def accepted(self):
            halves.append(False)

    async def send(writer):
        if writer.bytes > limit:
            raise OutputRefused("too large", writer.bytes)
        return 5

    sender = SimpleNamespace(topic="t", partition=0, send=send)
    assert [await send_or_halve(sender, Writer(bytes=size)) for size in (5000, 4000)] == [None, 5]
    assert halves == [True, False]
    with pytest.raises(OutputRefused):
        limit = 0
        await send_or_halve(sender, Writer(bytes=1))
