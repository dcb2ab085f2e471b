"""``klais_anomalies`` was created again while no controller led: the next one reads its flags from the start."""

import asyncio

import orjson
import pytest
from confluent_kafka import Producer

from klais.control.setpoints import INCIDENTS, ControlFollower
from klais.kafka.topic_identity import TopicIdentity
from klais.worker.incidents import Incidents


@pytest.mark.parametrize(("same", "first"), [(True, 2), (False, 0)])
async def test_offsets_of_another_topic_do_not_count(settings_for, topics_of, same, first):
    settings = settings_for(partitions=1)
    topic = topics_of(settings).anomalies
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    for _ in range(3):
        producer.produce(topic, b"{}", partition=0)
    assert producer.flush(30) == 0
    identity = TopicIdentity(settings, topic)
    assert not identity.replaced() and identity.topic_id
    control = ControlFollower(settings)
    state = {"next": {"0": 2}, "topic_id": identity.topic_id if same else "another"}
    control.consume(INCIDENTS, orjson.dumps(state))
    incidents = Incidents(settings, control)
    try:
        await incidents._begin()
        assert incidents._offsets == {0: first} and incidents._topic_id == identity.topic_id
    finally:
        await asyncio.gather(incidents.close(), incidents._announcer.close())
