"""The objects that all lanes of one worker share: settings, limits, producers, and the group consumer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from klais.config.load import Settings
from klais.core.anomaly.detector import Detector
from klais.core.dam.bucket import TokenBucket
from klais.kafka.producer import BatchProducer
from klais.kafka.shared_ends import SharedEnds
from klais.kafka.topics import Topics
from klais.worker.history import Histories
from klais.worker.limits import LaneLimits
from klais.worker.tap import Taps


class RawConsumer(Protocol):
    """The group's consumer of ``klais_raw``, as lanes control it. It may deliver records in any order.

    Lanes check the offsets.
    """

    def pause(self, partition: int) -> None:
        """Stop the delivery of this partition."""

    def resume(self, partition: int) -> None:
        """Deliver again."""

    async def seek(self, partition: int, offset: int) -> None:
        """Continue at ``offset``, whatever the group has committed."""

    async def repair_commit(self, partition: int, acknowledged: int, newest: int) -> None:
        """Commit what the client omitted, up to ``acknowledged``, and never leave the group beyond ``newest``."""


def _ignore(_seconds: float) -> None:
    """Does nothing."""


def _nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True, slots=True)
class LaneContext:
    """The objects that all lanes of a worker share.

    There are three producers. A producer has one request in flight for each broker, so a small journal record does not
    wait behind a large output.

    Parameters
    ----------
    on_step : callable
        Called with the seconds that each decision took.
    on_sent : callable
        Called with the seconds from handing a batch to Kafka to its acknowledgement.
    on_landed : callable
        Called once a batch with the seconds from its arrival at the edge until its frames are on the clean topic.
    on_ending : callable
        Called when a session ends, while its figures can still be read.
    on_failure : callable
        Called when a session has failed.
    new_detector : callable
        Creates the detector of a lane, without any history.
    profile_bytes : TokenBucket
        Allowance of bytes for saved profiles.
    taps : Taps
        The open taps on decided frames.
    loading : asyncio.Lock
        Held while a lane reads its rows, so that only one copy is in memory at a time.
    saving : asyncio.Lock
        Held while a lane collects profiles to save, so that several lanes do not block the event loop in one turn.
    histories : Histories
        What earlier sessions of the lanes had.
    shared_ends : SharedEnds, optional
        Asks for end offsets for all lanes; None = each lane asks for its own.
    """

    settings: Settings
    topics: Topics
    worker_id: str
    limits: LaneLimits
    consumer: RawConsumer
    journal_producer: BatchProducer
    output_producer: BatchProducer
    changelog_producer: BatchProducer
    on_step: Callable[[float], None]
    on_sent: Callable[[float], None]
    new_detector: Callable[[], Detector]
    profile_bytes: TokenBucket
    on_landed: Callable[[float], None] = _ignore
    on_ending: Callable[[], None] = _nothing
    on_failure: Callable[[], None] = _nothing
    taps: Taps = field(default_factory=Taps)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    saving: asyncio.Lock = field(default_factory=asyncio.Lock)
    histories: Histories = field(default_factory=Histories)
    shared_ends: SharedEnds | None = None
