"""What all lanes of one worker share: settings, limits, producers, and the group consumer that feeds them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from klais.config.load import Settings
from klais.core.anomaly.detector import Detector
from klais.core.dam.bucket import TokenBucket
from klais.kafka.producer import BatchProducer
from klais.kafka.topics import Topics
from klais.worker.limits import LaneLimits
from klais.worker.tap import Taps


class RawConsumer(Protocol):
    """The group's consumer of ``klais_raw``, as lanes steer it. It may deliver anything in any place.

    Lanes check offsets.
    """

    def pause(self, partition: int) -> None:
        """Deliver nothing of this partition for now."""

    def resume(self, partition: int) -> None:
        """Deliver again."""

    async def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``, whatever the group has committed."""

    async def repair_commit(self, partition: int, acknowledged: int, newest: int) -> None:
        """Commit what the client forgot to, up to ``acknowledged``; never leave the group beyond ``newest``."""


def _ignore(_seconds: float) -> None:
    """Does nothing."""


def _nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True, slots=True)
class LaneContext:
    """What the lanes of a worker share.

    There are three producers, because a producer has one request in flight for each broker: a small journal record
    never waits behind a large output.

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
        Makes the detector of a lane, which knows nothing yet.
    profile_bytes : TokenBucket
        Bytes of profiles that the lanes may save.
    taps : Taps
        Who looks at the frames that are decided.
    loading : asyncio.Lock
        Held while a lane reads its rows, so that the copies of several lanes do not add up.
    saving : asyncio.Lock
        Held while a lane collects profiles to save, so that those of several lanes do not fill one turn of the loop.
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
