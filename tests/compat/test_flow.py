"""What lanes ask of Faust's consumer (klais/worker/flow.py) is there, on the real class, and does what it says."""

import inspect
from types import SimpleNamespace

from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP

from klais.worker.flow import PartitionFlow


def test_the_calls_of_the_real_class():
    takes = {name: list(inspect.signature(getattr(Consumer, name)).parameters) for name in ("pause_partitions", "seek")}
    takes["resume_partitions"] = list(inspect.signature(Consumer.resume_partitions).parameters)
    assert takes == {
        "pause_partitions": ["self", "tps"],
        "resume_partitions": ["self", "tps"],
        "seek": ["self", "partition", "offset"],
    }
    assert inspect.iscoroutinefunction(Consumer.seek) and callable(Consumer.assignment)


def real_pausing(assigned: set[TP]) -> SimpleNamespace:
    """Faust's own code for pausing, over an assignment."""
    consumer = SimpleNamespace(_active_partitions=set(assigned), _paused_partitions=set(), assignment=lambda: assigned)
    consumer._get_active_partitions = lambda: consumer._active_partitions
    consumer.pause_partitions = lambda tps: Consumer.pause_partitions(consumer, tps)
    consumer.resume_partitions = lambda tps: Consumer.resume_partitions(consumer, tps)
    return consumer


async def test_a_partition_is_paused_and_resumed_and_one_of_others_left_alone():
    mine, other = TP("klais_raw", 1), TP("klais_raw", 2)
    consumer = real_pausing({mine})
    flow = PartitionFlow(lambda: consumer, lambda p: TP("klais_raw", p), None)
    flow.pause(1)
    assert (consumer._active_partitions, consumer._paused_partitions) == (set(), {mine})
    flow.resume(1)
    assert (consumer._active_partitions, consumer._paused_partitions) == ({mine}, set())
    flow.resume(2)
    assert other not in consumer._active_partitions


async def test_a_consumer_that_has_not_started_is_left_alone():
    def not_started():
        raise LookupError("not started")

    for consumer in (None, SimpleNamespace(assignment=not_started)):
        flow = PartitionFlow(lambda consumer=consumer: consumer, lambda p: TP("klais_raw", p), None)
        flow.pause(1)
        await flow.seek(1, 5)
