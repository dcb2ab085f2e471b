"""Flags with one cause are one incident in real workers, opened once whoever leads, with what operators said of it."""

import asyncio
import json
import os
import time
import urllib.request
from collections import Counter

import numpy as np
import pytest
from confluent_kafka import Producer

from klais import fault
from klais.config.load import Settings
from klais.control.incidents import ack_scope, mute_scope
from klais.control.overrides import write
from klais.core.wire.constants import encode_frame
from klais.kafka.admin import ensure_topics
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.verify.audit import audit_lane
from tests.support.fault_harness import Worker
from tests.support.lane import batch
from tests.support.process import HTTP_S, exit_code, wait_for
from tests.support.schemas import problems

DEVICES, SLOW, LEARNED = 40, 12, 150
MINUTE_NS = 60 * 10**9


class Fleet:
    """Devices that send once a minute of the past, each minute as one frame batch."""

    def __init__(self, settings: Settings) -> None:
        self._producer = Producer({"bootstrap.servers": settings.bootstrap})
        self._topic = Topics.of(settings).raw
        self._rng = np.random.default_rng(1)
        self._begin_ns = time.time_ns() - 3 * LEARNED * MINUTE_NS
        self._sequence = Counter()
        self.minute = 0

    def send(self, minutes: int, slow: bool = False, stuck: bool = False, **values: float) -> None:
        """``slow``: some send every fifth minute; ``stuck``: the last one always sends the same."""
        for _ in range(minutes):
            frames = []
            for i in range(DEVICES):
                if slow and i < SLOW and self.minute % 5:
                    continue
                t = 20 + 0.3 * self._rng.normal()
                t = 20.5 if stuck and i == DEVICES - 1 else values.get(f"d{i}", t)
                frames.append(encode_frame(f"dev-{i}", self._sequence[i], b'{"t":%.2f,"fw":"1.0"}' % t))
                self._sequence[i] += 1
            at_ns = self._begin_ns + self.minute * MINUTE_NS
            self._producer.produce(self._topic, batch(frames, self.minute, at_ns), partition=0)
            self.minute += 1
        assert self._producer.flush(HTTP_S) == 0


def page(worker: Worker, path: str = "/incidents/") -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=HTTP_S) as answer:
        return json.load(answer)


async def announced(settings: Settings) -> list[dict]:
    """The records of incidents on klais_anomalies."""
    topic = Topics.of(settings).anomalies
    async with PartitionReader(settings) as reader:
        start, end = await reader.offsets(topic, 0)
        bodies = [json.loads(record.value or b"{}") async for record in reader.read(topic, 0, start, end)]
    assert bodies and [found for body in bodies for found in problems("klais_anomalies", body)] == []
    return [body for body in bodies if body["kind"] == "incident"]


POINTS = fault.INCIDENT_POINTS if os.environ.get("KLAIS_FAULT_ROUNDS") else fault.INCIDENT_POINTS[:1]


@pytest.mark.parametrize("point", POINTS)
def test_each_incident_is_one_whoever_leads_and_stays_acknowledged_and_muted(kafka, tmp_path, point):
    settings = Settings(
        topic_prefix=f"incidents-{time.time_ns():x}-", kafka_bootstrap=kafka, partitions=1, state_dir=tmp_path
    )
    ensure_topics(settings)
    fleet, given = Fleet(settings), {"incident_window_s": 1}
    first, second = Worker(settings, tmp_path / "a.log", fault_point=f"{point}:2", **given), None
    try:
        first.wait_ready()
        wait_for(lambda: "incidents_followed" in first.tail(200), 30, lambda: f"it leads:\n{first.tail()}")
        fleet.send(LEARNED)
        fleet.send(40, stuck=True)
        (stuck,) = wait_for(lambda: page(first)["items"], 30, lambda: f"a stuck sensor:\n{first.tail()}")
        assert (stuck["type"], stuck["members"], stuck["causes"]) == ("device", [f"dev-{DEVICES - 1}"], ["stuck"])
        assert stuck["flags"] <= 3 and "did not change" in stuck["explanation"]
        write(settings, ack_scope(stuck["id"]), {"ack": True}, "ops", "known")
        write(settings, mute_scope("device", "dev-20"), {"mute": True}, "ops", "bench")

        fleet.send(40, slow=True, stuck=True)
        exit_code(first.process, 60, lambda: f"killed at {point}:\n{first.tail()}")
        second = Worker(settings, tmp_path / "b.log", **given)
        second.wait_ready()
        wait_for(lambda: "incidents_followed" in second.tail(200), 30, lambda: f"it leads:\n{second.tail()}")
        fleet.send(1, slow=True, stuck=True, d20=900.5, d21=900.5)
        by_type = wait_for(lambda: settled(second), 30, lambda: f"three incidents:\n{page(second)}\n{second.tail()}")
        group = by_type["group"]
        assert set(group["members"]) <= {f"dev-{i}" for i in range(SLOW)} and 2 * group["devices"] > SLOW
        assert group["causes"] == ["interval"] and f"{group['devices']} devices together" in group["explanation"]
        assert {item["id"]: item["acknowledged"] is not None for item in page(second)["items"]} == {
            item["id"]: item["id"] == stuck["id"] for item in page(second)["items"]
        }
        assert [mute["name"] for mute in page(second)["mutes"]] == ["dev-20"]
        assert second.stop() == 0
    finally:
        first.kill()
        if second is not None:
            second.kill()
    said = Counter((body["id"], body["revision"]) for body in asyncio.run(announced(settings)))
    assert set(said.values()) == {1} and {name for name, revision in said if revision == 1} == set(by_type["ids"])
    assert asyncio.run(audit_lane(settings, 0)).problems == []


def settled(worker: Worker) -> dict | None:
    """Incidents by type, once there is one of each kind and that of dev-21."""
    items = page(worker)["items"]
    known = {item["first"]["device"] for item in items}
    if "dev-21" not in known or "group" not in {item["type"] for item in items}:
        return None
    assert len(items) == 3 and "dev-20" not in known
    return {item["type"]: item for item in items} | {"ids": [item["id"] for item in items]}
