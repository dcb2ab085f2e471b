"""Observe the progress of a running system through its processes and Kafka."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from confluent_kafka import TopicPartition

from bench.harness.child import Child
from bench.harness.report import Sample
from bench.harness.waiting import BenchFailed, wait_for
from klais.config.load import Settings
from klais.kafka.admin_client import admin_client
from klais.kafka.offsets import list_offsets
from klais.kafka.reader import PartitionReader

SAMPLE_S = 0.05


def get_json(url: str) -> Any:
    """The body of a GET as JSON; None without an answer, or if the status is not 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def wait_ready(child: Child, settings: Settings, timeout_s: float = 90.0) -> None:
    """Wait until the worker reports that its lanes are live."""

    def ready() -> bool:
        child.check()
        return get_json(f"http://127.0.0.1:{settings.web_port}/readyz") is not None

    wait_for(ready, timeout_s, f"the worker is ready; its log ends:\n{child.tail()}")


def healthy(child: Child, settings: Settings) -> bool:
    child.check()
    health = get_json(f"http://{settings.api_bind}/health")
    return health is not None and health["status"] == "ok"


def edge_counters(settings: Settings) -> dict[str, Any]:
    """Counters of the edge now."""
    stats = get_json(f"http://{settings.api_bind}/stats")
    if stats is None:
        raise BenchFailed("the edge does not answer")
    counters: dict[str, Any] = stats["edge"]["counters"]
    return counters


class Ends:
    """End offsets of one topic, from the broker."""

    def __init__(self, settings: Settings, topic: str, partitions: int | None = None) -> None:
        self._admin = admin_client(settings)
        self._places = [(topic, partition) for partition in range(partitions or settings.partitions)]

    def total(self) -> int:
        """Sum over the partitions, transaction markers included."""
        return sum(list_offsets(self._admin, self._places, timeout_s=10).values())


def watch(child: Child, done: Callable[[], int], total: int, timeout_s: float) -> list[Sample]:
    """Sample a child every 50 ms until it has processed ``total`` frames.

    Raises
    ------
    BenchFailed
        If it ended, or did not finish within ``timeout_s``.
    """
    samples: list[Sample] = []
    until_s = time.monotonic() + timeout_s
    while not samples or samples[-1].done < total:
        frames = done()
        samples.append(Sample(time.monotonic(), child.cpu_s(), frames))
        if samples[-1].at_s > until_s:
            raise BenchFailed(f"{child.name}: {frames:,} of {total:,} frames after {timeout_s:g} s:\n{child.tail()}")
        time.sleep(SAMPLE_S)
    return samples


def count_records(settings: Settings, topic: str) -> int:
    """Count the records in the log of a topic: transaction markers take an offset, but are not records."""

    async def count() -> int:
        records = 0
        async with PartitionReader(settings) as reader:
            for partition in range(settings.partitions):
                at, end = await reader.offsets(topic, partition)
                while at < end:
                    # whole batches, not unpacked: their headers have the number of records
                    for batch in await reader._fetch(TopicPartition(topic, partition), at):
                        records += 0 if batch.is_control_batch else batch.next_offset - batch.base_offset
                        at = batch.next_offset
        return records

    return asyncio.run(count())
