"""A power loss of the one broker: segments are cut for real, then frames come again. Lost, doubled and reported agree.

Kafka acknowledges from the page cache, and the kernel writes each file back when it likes. So each topic may lose
another part of its tail. One broker serves all cases: it is killed once, each case cuts its own topics, and the broker
starts again.
"""

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from klais.config.load import Settings
from klais.core.lane.state import Tally
from klais.kafka.admin import ensure_topics
from klais.kafka.fenced import fence
from klais.kafka.topics import Topics
from klais.verify.audit import LaneAudit, audit_lane
from klais.worker.lane import Lane
from tests.support.fault_harness import worker
from tests.support.lanes import Edge, checkpoint, ends, figures, landed, lanes, live, until
from tests.support.process import exit_code, wait_for
from tests.support.segments import batches, cut, folder_of, newest_segment
from tests.support.stage import Stage, stage

ROUNDS = 10  # batches of 5 frames: so many before the checkpoint, and after it
FRAMES = 5
ALL = int(os.environ.get("KLAIS_FAULT_ROUNDS", "1")) > 1


@dataclass(frozen=True)
class Case:
    """What is cut, in records from the end, and what follows.

    ``reported``: frames that the lane counts as lost. ``untaken``: frames that are lost because their raw records are
    gone, though the lane, as far as it knows now, never took them: only the edges' missing batches show them, with
    those whose records are on the clean topic (``unknown``).
    ``late``: a second checkpoint before the loss. ``marker``: its marker is lost, its rows are not. ``owners``: so many
    lanes, one after the other. ``live``: the lane lives through it. ``grown``: batches before the lane looks again.
    ``repeat``: the edge sends its last batch again, as it does where it got no answer. ``fences``: sessions that take
    the lane over after the loss and end before they count it. ``kills``: workers that die after they have counted it,
    before their checkpoint covers that.
    """

    name: str
    cuts: dict[str, int]
    reported: int = 0
    untaken: int = 0
    doubled: int = 0
    grown: int = 0
    repeat: bool = False
    fences: int = 0
    kills: int = 0
    owners: int = 1
    late: bool = False
    live: bool = False
    problem: str = ""
    rare: bool = False
    unknown: int = 0

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("nothing", {}),
    Case("raw", {"raw": 4}, grown=10),
    Case("raw, and a batch that comes twice", {"raw": 4}, repeat=True, grown=10),
    Case("raw, shorter than before", {"raw": 4}, rare=True),
    Case("raw, live", {"raw": 4}, live=True),
    Case("raw, live, grown again before the lane looks", {"raw": 4}, live=True, grown=10),
    Case("raw, below the checkpoint", {"raw": 15}, grown=30),
    Case("raw, below the checkpoint, shorter than before", {"raw": 15}, rare=True),
    Case("raw, behind a late checkpoint", {"raw": 5}, late=True, grown=20, rare=True),
    Case("journal", {"journal": 4}, doubled=20),
    Case("journal, live", {"journal": 4}, doubled=20, live=True),
    Case("journal, below the checkpoint", {"journal": 15}, doubled=50, problem="steps 6 to 20", rare=True),
    Case("telemetry", {"telemetry": 20}),
    Case("telemetry, below the checkpoint", {"telemetry": 80}, reported=30),
    Case("telemetry, and fences hide it", {"telemetry": 55}, reported=5, fences=4),
    Case("telemetry, counted by a worker that dies", {"telemetry": 80}, reported=30, kills=1),
    Case("telemetry, live", {"telemetry": 80}, reported=30, live=True),
    Case("telemetry, of several owners", {"telemetry": 74}, reported=70, owners=3),
    Case("more of the journal than of the telemetry", {"journal": 8, "telemetry": 15}, doubled=25),
    Case("more of the telemetry than of the journal", {"journal": 2, "telemetry": 30}, rare=True),
    Case("raw and telemetry", {"raw": 5, "telemetry": 15}, reported=15),
    Case(
        "raw and telemetry, counted by workers that die", {"raw": 5, "telemetry": 15}, reported=15, kills=2, rare=True
    ),
    Case("raw and telemetry, below the checkpoint", {"raw": 15, "telemetry": 60}, reported=60, rare=True),
    Case("all three", {"raw": 5, "journal": 8, "telemetry": 30}, untaken=25, doubled=10),
    Case("most of raw", {"raw": 8, "journal": 3, "telemetry": 10}, untaken=10, grown=12, unknown=5),
    Case("raw most", {"raw": 15, "journal": 3, "telemetry": 40}, reported=25, untaken=15, grown=30, rare=True),
    Case("journal behind a late checkpoint", {"journal": 5}, late=True, problem="steps 16 to 20", rare=True),
    Case("a marker and the journal", {"devices_changelog": 1, "journal": 5}, late=True, doubled=25),
    Case("a marker, journal, telemetry", {"devices_changelog": 1, "journal": 5, "telemetry": 40}, late=True),
    Case("changelog and journal", {"devices_changelog": 2, "journal": 3}, doubled=15, rare=True),
]


@dataclass
class Run:
    """One case while it runs, and what became of it."""

    case: Case
    settings: Settings
    edge: Edge
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    lost: int = 0
    doubled: int = 0
    reported: int = 0
    missing_batches: int = 0
    said_doubled: int = 0
    holds: bool = False
    audit: LaneAudit | None = None

    async def go(self) -> None:
        """Before, the loss, after."""
        for owner in range(self.case.owners):
            async with lanes(self.settings) as found:
                lane = found[0]
                await live(lane)
                if owner == 0:
                    await self._feed(lane, ROUNDS)
                    await checkpoint(lane)
                    await self._feed(lane, ROUNDS)
                else:
                    await self._feed(lane, 2)
                if self.case.late or self.case.owners > 1:
                    await checkpoint(lane)
                if self.case.live:
                    await self._loss()
                    await self._noticed(lane)
                    await self._after(lane)
        if not self.case.live:
            await self._loss()
            async with lanes(self.settings) as found:
                await live(found[0])
                await self._after(found[0])
        there = await asyncio.to_thread(landed, self.settings)
        self.lost, self.doubled = self.edge.sent - len(there), sum(there.values()) - len(there)
        self.audit = await audit_lane(self.settings, 0)

    async def _feed(self, lane: Lane, rounds: int) -> None:
        """Batch after batch, each in a step of its own, put out."""
        assert lane.session is not None
        for _ in range(rounds):
            self.edge.send()
            await self._taken(lane, lane.session.state.next_raw + 1)

    async def _taken(self, lane: Lane, end: int) -> None:
        def done() -> bool:
            session = lane.session
            if not lane.live.is_set() or session is None:
                return False
            lane.intake.fetch_up_to(end)
            return session.state.next_raw >= end and session.acked_step >= session.state.step

        await until(done, f"all taken: {lane.failure}")

    async def _loss(self) -> None:
        self.ready.set()
        await self.cut.wait()
        self.edge.connect()
        topics = Topics.of(self.settings)
        outputs = [(topic, 0) for topic in (topics.telemetry, topics.anomalies, topics.dead_letter)]
        for _ in range(self.case.fences):
            await fence(self.settings, f"{topics.app_id}-lane-0", outputs)
        for _ in range(self.case.kills):
            await asyncio.to_thread(self._die)
        if self.case.repeat:
            self.edge.put(self.edge.last)
        for _ in range(self.case.grown):
            self.edge.send()
        if self.case.live:  # what shows the loss to a lane that has nothing to do is the next batch
            self.edge.send()

    def _die(self) -> None:
        """A worker that is killed when the loss is journalled, and no checkpoint covers that."""
        log = self.settings.state_dir / f"{self.settings.topic_prefix}worker.log"
        with worker(self.settings, log, fault_point="checkpoint_marker") as it:
            code = exit_code(it.process, 60, lambda: f"the end of the worker:\n{it.tail()}")
            assert code == -signal.SIGKILL and "lane_resumed" in log.read_text(), it.tail()

    async def _noticed(self, lane: Lane) -> None:
        ((_, end),) = await asyncio.to_thread(ends, self.settings, Topics.of(self.settings).raw)

        def noticed() -> bool:
            lane.intake.fetch_up_to(end)
            return lane.restarts > 0

        await until(noticed, "the loss is noticed")

    async def _after(self, lane: Lane) -> None:
        await live(lane)
        self.edge.send(ROUNDS)
        ((_, end),) = await asyncio.to_thread(ends, self.settings, Topics.of(self.settings).raw)
        await self._taken(lane, end)
        await checkpoint(lane)
        report = figures(lane)
        self.reported = report.output_lost + report.queue_lost + FRAMES * report.lost_records
        self.said_doubled, self.holds = report.doubled, report.conservation.holds
        assert lane.session is not None
        self.missing_batches = int(lane.session.state.tally[Tally.MISSING_BATCHES])

    def lose(self) -> None:
        """Cut the topics of a broker that does not run."""
        for topic, count in self.case.cuts.items():
            name = getattr(Topics.of(self.settings), topic)
            end = batches(newest_segment(folder_of(self.settings, name)))[-1][1]
            torn = count % 2 == 0  # half of the cases: a batch that is there in part
            cut(self.settings, name, end - count, torn=torn)


async def run_all(on: Stage, runs: list[Run]) -> None:
    """All cases side by side, with one loss in the middle."""
    tasks = [asyncio.create_task(run.go()) for run in runs]
    for run, task in zip(runs, tasks, strict=True):
        ready = asyncio.create_task(run.ready.wait())
        await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
    await asyncio.to_thread(lose_power, on, runs)
    for run in runs:
        run.cut.set()
    await asyncio.gather(*tasks)


def lose_power(on: Stage, runs: list[Run]) -> None:
    """kill -9, the cuts, and the start; a broker leads its partitions only after the end of its earlier session."""
    on.kill()
    for run in runs:
        run.lose()
    on.start()

    def serves() -> bool:
        try:
            return all(ends(run.settings, spec.name) for run in runs for spec in Topics.of(run.settings).specs())
        except Exception:
            return False

    wait_for(serves, 60, "every partition has its leader")


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Run]]:
    """Every case, run."""
    with stage(partitions=1, checkpoint_interval_s=600) as on:
        runs = []
        for case in CASES:
            if ALL or not case.rare:
                settings = on.settings.model_copy(update={"topic_prefix": f"t{uuid.uuid4().hex[:6]}-"})
                ensure_topics(settings)
                runs.append(Run(case, settings, Edge(settings)))
        asyncio.run(run_all(on, runs))
        yield {run.case.name: run for run in runs}


@pytest.mark.parametrize("case", [case for case in CASES if ALL or not case.rare], ids=str)
def test_lost_doubled_and_reported_are_the_same_figures(outcomes: dict[str, Run], case: Case) -> None:
    run = outcomes[case.name]
    assert (run.lost, run.doubled) == (case.reported + case.untaken, case.doubled)
    assert (run.reported, run.said_doubled) == (case.reported, case.doubled)
    assert FRAMES * run.missing_batches == case.untaken + case.unknown
    assert run.holds
    assert run.audit is not None
    if case.problem:
        (problem,) = run.audit.problems
        assert case.problem in problem
    else:
        assert run.audit.problems == []
        assert (run.audit.lost, run.audit.doubled, run.audit.unknown) == (case.reported, case.doubled, case.unknown)
