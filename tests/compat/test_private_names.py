"""Every private name and signature of other people's code that is used here, asserted on the real classes.

After an upgrade this file fails within seconds and names what moved. ``agents/faust_ext/COMPAT.md`` says what each is
used for.
"""

import asyncio
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver

from agents.faust_ext import CONSUMER_SCHEME, STORE_URL, register

# (class or function, method, the names of its parameters)
SIGNATURES = [
    # agents/faust_ext/transport.py
    ("mode.services:Service", "wait_first", ("self", "*coros", "timeout")),
    ("mode.threads:WorkerThread", "__init__", ("self", "service", "**kwargs")),
    ("mode.threads:WorkerThread", "start", ("self",)),
    ("mode.threads:WorkerThread", "stop", ("self",)),
    ("mode.threads:ServiceThread", "__init__", ("self", "executor", "loop", "thread_loop", "Worker", "**kwargs")),
    ("mode.threads:ServiceThread", "_serve", ("self",)),
    ("mode.threads:ServiceThread", "_gather_remaining_tasks", ("self",)),
    ("mode.threads:QueueServiceThread", "call_thread", ("self", "fun", "*args", "**kwargs")),
    ("mode.utils.futures:maybe_async", "", ("res",)),
    ("faust.transport.drivers.aiokafka:AIOKafkaConsumerThread", "on_start", ("self",)),
    ("faust.transport.drivers.aiokafka:AIOKafkaConsumerThread", "_ensure_consumer", ("self",)),
    ("faust.transport.drivers.aiokafka:Consumer", "_new_consumer_thread", ("self",)),
    ("faust.transport.drivers.aiokafka:Consumer", "verify_all_partitions_active", ("self",)),
    ("faust.transport.drivers.aiokafka:Consumer", "on_buffer_full", ("self", "tp")),
    ("faust.transport.drivers.aiokafka:Consumer", "highwater", ("self", "tp")),
    # agents/faust_ext/commits.py
    ("faust.transport.drivers.aiokafka:Consumer", "_commit", ("self", "offsets")),
    ("faust.transport.drivers.aiokafka:Consumer", "assignment", ("self",)),
    ("faust.transport.consumer:Consumer", "_commit_offsets", ("self", "offsets", "start_new_transaction")),
    ("faust.transport.consumer:Consumer", "_new_offset", ("self", "tp")),
    # agents/faust_ext/store.py
    ("faust.stores.base:SerializedStore", "_get", ("self", "key")),
    ("faust.stores.base:SerializedStore", "_set", ("self", "key", "value")),
    ("faust.stores.base:SerializedStore", "_del", ("self", "key")),
    ("faust.stores.base:SerializedStore", "_iterkeys", ("self",)),
    ("faust.stores.base:SerializedStore", "_itervalues", ("self",)),
    ("faust.stores.base:SerializedStore", "_iteritems", ("self",)),
    ("faust.stores.base:SerializedStore", "_size", ("self",)),
    ("faust.stores.base:SerializedStore", "_contains", ("self", "key")),
    ("faust.stores.base:SerializedStore", "_clear", ("self",)),
    ("faust.stores.base:SerializedStore", "persisted_offset", ("self", "tp")),
    ("faust.stores.base:SerializedStore", "backup_partition", ("self", "tp", "flush", "purge", "keep")),
    ("faust.stores.base:SerializedStore", "restore_backup", ("self", "tp", "latest", "backup_id")),
    # agents/faust_ext/worker.py
    ("faust.worker:Worker", "on_first_start", ("self",)),
    ("faust.worker:Worker", "_install_signal_handlers_unix", ("self",)),
    ("faust.worker:Worker", "_on_sigusr2", ("self",)),
    # agents/faust_ext/web.py
    ("faust.app.base:App", "_new_web", ("self",)),
    ("faust.web.drivers.aiohttp:Web", "start_server", ("self",)),
    ("faust.web.drivers.aiohttp:Web", "stop_server", ("self",)),
    # klais/kafka/coalescing_fetcher.py
    ("aiokafka.consumer.fetcher:Fetcher", "_proc_fetch_request", ("self", "assignment", "node_id", "request")),
    ("aiokafka.consumer.fetcher:FetchResult", "has_more", ("self",)),
    ("aiokafka.consumer.subscription_state:Assignment", "state_value", ("self", "tp")),
    ("aiokafka.record.memory_records:MemoryRecords", "size_in_bytes", ("self",)),
    ("aiokafka.record.memory_records:MemoryRecords", "has_next", ("self",)),
    ("aiokafka.record.memory_records:MemoryRecords", "next_batch", ("self",)),
    # klais/kafka/producer.py, klais/kafka/fenced.py, klais/kafka/reader.py
    ("aiokafka.client:AIOKafkaClient", "_wait_on_metadata", ("self", "topic")),
    ("aiokafka.client:AIOKafkaClient", "send", ("self", "node_id", "request", "group")),
    ("aiokafka.client:AIOKafkaClient", "force_metadata_update", ("self",)),
    ("aiokafka.client:AIOKafkaClient", "bootstrap", ("self",)),
    ("aiokafka.client:AIOKafkaClient", "add_topic", ("self", "topic")),
    ("klais.kafka.moved_brokers:_update_from_known", "", ("self", "cluster_metadata", "topics")),
    ("aiokafka.cluster:ClusterMetadata", "leader_for_partition", ("self", "partition")),
    ("aiokafka.producer.transaction_manager:TransactionManager", "maybe_add_partition_to_txn", ("self", "tp")),
    ("aiokafka.producer.producer:AIOKafkaProducer", "send_batch", ("self", "batch", "topic", "partition")),
    ("aiokafka.protocol.produce:ProduceRequest", "__init__",
     ("self", "transactional_id", "required_acks", "timeout", "topics")),
    ("aiokafka.protocol.fetch:FetchRequest", "__init__",
     ("self", "max_wait_time", "min_bytes", "max_bytes", "isolation_level", "topics", "rack_id")),
    # klais/jit
    ("numba.core.cgutils:get_item_pointer", "",
     ("context", "builder", "aryty", "ary", "inds", "wraparound", "boundscheck")),
    ("numba.core.cgutils:create_struct_proxy", "", ("fe_type", "kind")),
    ("numba.core.cgutils:raw_memcpy", "", ("builder", "dst", "src", "count", "itemsize", "align")),
    ("numba.core.cgutils:get_or_insert_function", "", ("module", "fnty", "name")),
    ("aiokafka.protocol.offset:OffsetRequest", "__init__", ("self", "replica_id", "isolation_level", "topics")),
]  # fmt: skip

MARKS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(MARKS.get(p.kind, "") + p.name for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize(("owner", "method", "expected"), SIGNATURES, ids=[f"{o}.{m}" for o, m, _ in SIGNATURES])
def test_a_method_has_the_parameters_that_are_used(owner: str, method: str, expected: tuple[str, ...]) -> None:
    module, _, name = owner.partition(":")
    found = getattr(import_module(module), name)
    for part in filter(None, [method]):
        assert hasattr(found, part), f"{owner} has no {part} any more"
        found = getattr(found, part)
    assert parameters(found) == expected


def test_the_books_of_faust_consumer_that_commit_repair_edits() -> None:
    names = driver.Consumer.__mro__
    declared = {name for owner in names for name in getattr(owner, "__annotations__", {})}
    assert {"_acked", "_acked_index", "_gap", "_committed_offset"} <= declared


def test_what_the_service_asks_the_app() -> None:
    register()
    app: Any = faust.App("names", broker="kafka://nowhere", store="memory://", autodiscover=False)
    app.Table("devices", key_type=bytes, value_type=bytes, partitions=1)
    assert app._consumer is None, "made at first use; the property would make it"
    assert app.tables.recovery.completed.is_set() is False
    assert app.assignor.assigned_actives() == set()
    assert (app.rebalancing, app.should_stop, app.in_worker, app.crash_reason) == (False, False, False, None)


def test_drivers_are_found_by_the_scheme_of_a_url() -> None:
    register()
    found: Any = TRANSPORTS.by_url(f"{CONSUMER_SCHEME}://localhost:9092")
    assert issubclass(found, driver.Transport) and found.Consumer is not driver.Consumer
    assert issubclass(found.Consumer, driver.Consumer)
    store: Any = import_module("faust.stores").by_url(STORE_URL)
    assert store.__module__ == "agents.faust_ext.store"


async def test_the_fields_of_a_fetch_and_of_its_results() -> None:
    client = AIOKafkaClient(bootstrap_servers="localhost:1")
    fetcher = Fetcher(client, SubscriptionState())
    try:
        assert fetcher._records == {} and client._conns == {}
    finally:
        await fetcher.close()
        await client.close()
    request = FetchRequest(1500, 1, 1 << 20, 0, [("raw", [(0, 7, 1 << 20)])])
    assert (request._max_wait_ms, request._min_bytes) == (1500, 1)
    assert request.topics == [("raw", [(0, 7, 1 << 20)])]
    records: Any = object()
    tp = TopicPartition("raw", 0)
    parts = PartitionRecords(tp, records, [], 0, None, None, False, 0)
    assert parts._records is records
    result = FetchResult(tp, assignment=None, partition_records=parts, backoff=0)
    assert result._partition_records is parts and result.has_more()
    assert hasattr(aiokafka.consumer.subscription_state.TopicPartitionState, "consumed_to")
    state = aiokafka.consumer.subscription_state.TopicPartitionState(assignment=None)
    assert state.highwater is None


async def test_what_the_producers_use_of_aiokafka() -> None:
    plain = aiokafka.AIOKafkaProducer(bootstrap_servers="localhost:1", acks="all", request_timeout_ms=12_000)
    assert plain._sender._acks == -1 and plain._request_timeout_ms == 12_000
    assert plain.client.cluster.leader_for_partition(TopicPartition("t", 0)) is None
    fenced = aiokafka.AIOKafkaProducer(bootstrap_servers="localhost:1", transactional_id="lane")
    assert (fenced._txn_manager.producer_id, fenced._txn_manager.producer_epoch) == (-1, -1)
    batch = plain.create_batch()
    for name in ("record_count", "size", "closed", "close", "append", "_set_producer_state", "_build"):
        assert hasattr(batch, name), f"BatchBuilder has no {name} any more: klais.kafka.fenced.ReadyBatch mirrors it"
    for producer in (plain, fenced):
        await producer.client.close()
        producer._closed = True  # it was never started: its finalizer would complain


async def test_the_selector_of_asyncio_that_the_loop_watch_wraps() -> None:
    loop: Any = asyncio.get_running_loop()
    assert parameters(loop._selector.select) == ("timeout",)
