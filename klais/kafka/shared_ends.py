"""End offsets for all lanes of a worker: the lanes that ask at about the same time share one request."""

import asyncio
import contextlib
from collections.abc import Sequence

from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.errors import KlaisError
from klais.kafka.reader import PartitionReader
from klais.system.tasks import end_task

GATHER_S = 0.02  # how long a request waits for those of other lanes
TIMEOUT_S = 2.0  # for a shared request; then each lane asks for itself, with its own time-outs and errors

Asked = tuple[list[TopicPartition], "asyncio.Future[list[int] | None]"]


class SharedEnds:
    """Asks for the ends of several lanes in one request for each broker, over one connection.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    """

    def __init__(self, settings: Settings) -> None:
        self._reader = PartitionReader(settings, TIMEOUT_S)
        self._connected = False
        self._waiting: list[Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def ends(self, own: PartitionReader, topics: Sequence[str], partition: int) -> list[int]:
        """As :meth:`PartitionReader.ends` of ``own``, which asks if the shared request brings no complete answer."""
        done: asyncio.Future[list[int] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(([TopicPartition(topic, partition) for topic in topics], done))
        if self._task is None:
            self._task = asyncio.create_task(self._ask(), name="shared-ends")
        found = await done
        return await own.ends(topics, partition) if found is None else found

    async def close(self) -> None:
        """Disconnect; lanes that still wait ask for themselves."""
        await end_task(self._task)
        self._answer(self._waiting, {})  # of a task that was cancelled before it began
        self._task, self._waiting = None, []
        await self._reader.stop()

    async def _ask(self) -> None:
        asked: list[Asked] = []
        ends: dict[TopicPartition, int] = {}
        try:
            await asyncio.sleep(GATHER_S)
            self._task, asked, self._waiting = None, self._waiting, []
            places = sorted({place for mine, _ in asked for place in mine})
            with contextlib.suppress(TimeoutError, KlaisError, kafka_errors.KafkaError):
                async with asyncio.timeout(TIMEOUT_S):
                    if not self._connected:
                        await self._reader.start()
                    self._connected = False  # a client may keep an old leader: connect again after any error
                    ends = await self._reader.ends_now(places)
                    self._connected = len(ends) == len(places)
        finally:
            self._answer(asked, ends)

    @staticmethod
    def _answer(asked: list[Asked], ends: dict[TopicPartition, int]) -> None:
        for mine, done in asked:
            if not done.done():
                done.set_result([ends[place] for place in mine] if all(place in ends for place in mine) else None)
