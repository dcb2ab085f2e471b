"""Progress of a recovery: a stage and its share, while the lane restores and not after."""

from types import SimpleNamespace
from typing import Any

from klais.config.load import Settings
from klais.core.lane.journal import encode_owner
from klais.errors import LaneFailed
from klais.kafka.reader import RawRecord
from klais.kafka.topics import Topics
from klais.worker.changelog import OwnRecords, load_partition
from klais.worker.lane import Lane
from klais.worker.progress import Progress
from klais.worker.recovery import read_journal


class Watching:
    """A log of equal records, read as a PartitionReader reads them; notes the progress before each record."""

    def __init__(self, progress: Progress, start: int, count: int, value: bytes | None) -> None:
        self.start, self.count, self.value = start, count, value
        self.progress, self.seen = progress, list[str]()

    async def offsets(self, _topic: str, _partition: int) -> tuple[int, int]:
        return self.start, self.start + self.count

    async def read(self, _topic: str, _partition: int, start: int, end: int | None = None):
        for offset in range(start, self.start + self.count):
            now = self.progress.now()
            assert now is not None
            self.seen.append(now.text)
            yield RawRecord(offset, b"\0owner", self.value, ())


async def test_reading_a_changelog_and_a_journal_shows_the_share_that_was_read() -> None:
    progress = Progress()
    log: Any = Watching(progress, 1000, 10, None)
    await load_partition(log, "changelog", 0, None, progress)
    assert (log.seen[0], log.seen[5]) == ("0 % of its devices read", "40 % of its devices read")
    log = Watching(progress, 500, 100, encode_owner("w", 1, 0, 7))
    await read_journal(log, "journal", 0, None, OwnRecords(None), progress)
    assert (log.seen[0], log.seen[62]) == ("0 % of the journal read", "61 % of the journal read")


def test_an_empty_stage_has_a_share_and_a_share_stays_within_its_bounds() -> None:
    progress = Progress()
    assert progress.now() is None
    for begin, end, at, share in ((5, 5, 5, 0.0), (5, 9, 900, 1.0), (5, 9, 0, 0.0), (0, 3, 1, 0.3333)):
        progress.begin("replay", begin, end)
        progress.at = at
        now = progress.now()
        assert now is not None and now.share == share
    progress.end()
    assert progress.now() is None


def test_a_lane_that_waits_after_a_failure_restores_nothing() -> None:
    settings = Settings()
    nothing: Any = lambda *_: None  # noqa: E731
    context: Any = SimpleNamespace(
        settings=settings, topics=Topics.of(settings), consumer=None, on_failure=nothing, on_ending=nothing
    )
    lane = Lane(context, 0)
    assert lane.statistics().restoring is None
    lane._progress.begin("journal", 0, 10)
    restoring = lane.statistics().restoring
    assert restoring is not None and restoring.stage == "journal"
    lane._session_ended(LaneFailed("no broker"), 1)
    assert lane.statistics().restoring is None
