"""Sends incidents to ``klais_anomalies``: each revision once, across changes of the leader.

The leader first writes an incident to ``klais_control``, together with the ids of the incidents whose records are not
sent yet. Then it sends the record to partition 0 of ``klais_anomalies`` under a separate fence. A new leader takes that
fence, so that the broker refuses later records of the previous leader, and reads which of the records have arrived.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from klais import fault
from klais.config.load import Settings
from klais.core.incidents.incident import INCIDENT_HEADER
from klais.errors import OutputRefused
from klais.kafka.fenced import FencedSender, abandon, fence, make_producer
from klais.kafka.producer import BatchProducer
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from klais.system import shallow_json
from klais.system.clock import now_ms
from klais.telemetry.log import get

log = get("klais.worker.announcer")

PARTITION = 0
LIMIT_BYTES = 900_000


class Announcer:
    """Sends the records of incidents, for one term.

    Parameters
    ----------
    settings : Settings
        Settings of the worker.

    Attributes
    ----------
    floor : int
        First offset of the partition at which records of :attr:`unsent` can be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._topics = settings, Topics.of(settings)
        self._waiting: dict[tuple[str, int], dict[str, Any]] = {}
        self._wake = asyncio.Event()
        self._producer: BatchProducer | None = None
        self._sender: FencedSender | None = None
        self.floor = -1

    @property
    def unsent(self) -> dict[str, int]:
        """Newest revision of each incident whose record is not acknowledged."""
        return dict(sorted(self._waiting))

    async def begin(self, floor: int, unsent: Mapping[str, dict[str, Any]]) -> None:
        """Take the fence, then queue those of ``unsent`` (record by id) that the previous leader did not send.

        ``floor`` is -1 if there was no previous leader.

        Raises
        ------
        klais.errors.KlaisError
            If Kafka does not answer, or another worker has taken the fence.
        """
        topic = self._topics.anomalies
        identity = await fence(self._settings, f"{self._topics.app_id}-incidents", [(topic, PARTITION)])
        self._producer = await make_producer(self._settings)
        self._sender = FencedSender(self._producer, identity, topic, PARTITION)
        async with PartitionReader(self._settings, 10.0) as reader:
            start, end = await reader.offsets(topic, PARTITION)
            sent: dict[str, int] = {}
            if unsent:
                async for record in reader.read(topic, PARTITION, min(max(start, floor), end), end):
                    if INCIDENT_HEADER in record.headers:
                        name, revision = _read(record.value)
                        sent[name] = max(revision, sent.get(name, 0))
        self.floor = end
        for name, incident in unsent.items():
            if sent.get(name, 0) < incident["revision"]:
                self.put(incident)

    def put(self, record: dict[str, Any]) -> None:
        """Queue a record (:func:`klais.core.incidents.incident.shown`)."""
        self._waiting[record["id"], record["revision"]] = {"kind": "incident", "ts": now_ms(), **record}
        self._wake.set()

    def queue(self, records: list[dict[str, Any]]) -> None:
        """Queue several."""
        for record in records:
            self.put(record)

    async def run(self) -> None:
        """Send until cancelled.

        Raises
        ------
        LaneFenced
            If another worker announces now.
        klais.errors.KlaisError
            If sending fails.
        """
        assert self._sender is not None
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._send_some(self._sender)

    async def _send_some(self, sender: FencedSender) -> None:
        writer = RecordBatchWriter(LIMIT_BYTES, "none")
        places = []
        for place, record in self._waiting.items():
            if not writer.append_one(record["id"].encode(), orjson.dumps(record), (INCIDENT_HEADER,)):
                break
            places.append(place)
        fault.at("incident_sent")
        try:
            base = await sender.send(writer)
        except OutputRefused as error:
            log.error("incidents_refused", records=len(places), error=str(error))
        else:
            self.floor = base + len(places) if base >= 0 else self.floor
        fault.at("incident_announced")
        for place in places:
            del self._waiting[place]

    async def close(self) -> None:
        """Close the producer. The next leader sends the remaining records."""
        if self._sender is not None:
            self._sender.close()
        if self._producer is not None:
            await abandon(self._producer)


def _read(value: bytes | None) -> tuple[str, int]:
    try:
        body = shallow_json.loads(value or b"")
        return str(body["id"]), int(body["revision"])
    except (ValueError, KeyError, TypeError):
        return "", 0
