"""The Faust application: topics, table and agents, declared once.

    klais_raw --ingest--> lanes --+--> iot_telemetry      clean records
                            |     +--> klais_anomalies    flags
        klais_journal <-----+     +--> klais_dead_letter  malformed frames
        devices (table) <---+          klais_stats        once a second
        klais_control ----> limits of the lanes

Run it with ``faust -A agents.app worker -l info`` or ``klais worker``.
"""

import asyncio
import os
import socket
import sys
from typing import Any

import faust

from agents.faust_ext.commits import CommitMender
from agents.faust_ext.store import Store
from agents.faust_ext.transport import App
from agents.faust_ext.worker import worker_class
from agents.service import Service, web_host
from klais import fault
from klais.config.load import load
from klais.control.setpoints import ControlFollower
from klais.http.connections import ConnectionLimits
from klais.kafka.clients import faust_broker
from klais.kafka.fenced import make_producer
from klais.kafka.topics import MAX_RECORD_BYTES, Topics
from klais.telemetry.log import dict_config, get, setup
from klais.telemetry.quantiles import both
from klais.worker.lane import Shared
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits

CONTROL_WAIT_S = 5.0
# Python lets a thread that computes go on for 5 ms before another may; those that follow topics and count must not hold the
# lanes up so long.
SWITCH_INTERVAL_S = 0.001
sys.setswitchinterval(SWITCH_INTERVAL_S)
settings = load()
setup(settings, "worker")
log = get("agents.app")
fault.arm(settings.fault_point)
topics = Topics.of(settings)
worker_id = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
broker, credentials = faust_broker(settings, faust.SASLCredentials)
(settings.state_dir / "faust").mkdir(parents=True, exist_ok=True)

app = App(
    topics.app_id,
    broker=broker,
    broker_credentials=credentials,
    store="lane://",
    recovery_consistency_check=False,  # the store says that there is nothing to recover, whatever the log holds
    datadir=str(settings.state_dir / "faust"),
    autodiscover=False,
    # topics are made and checked by `klais topics`, not by Faust
    topic_allow_declare=False,
    topic_disable_leader=True,
    topic_partitions=settings.partitions,
    consumer_auto_offset_reset="earliest",
    # a record is a frame batch: few, large, acknowledged by the checkpoint
    stream_buffer_maxsize=32,
    stream_wait_empty=False,
    stream_publish_on_commit=False,
    consumer_max_fetch_size=2 * MAX_RECORD_BYTES,
    producer_max_request_size=MAX_RECORD_BYTES,
    broker_commit_interval=1.0,
    broker_commit_livelock_soft_timeout=3600.0,
    stream_processing_timeout=3600.0,
    broker_session_timeout=settings.session_timeout_s,
    broker_heartbeat_interval=min(2.0, settings.session_timeout_s / 4),
    broker_rebalance_timeout=max(10.0, settings.session_timeout_s),
    broker_request_timeout=max(30.0, settings.session_timeout_s + 5),
    table_standby_replicas=0,
    web_bind=settings.web_bind,
    web_port=settings.web_port,
    web_host=web_host(settings.web_bind),
    canonical_url=f"http://{web_host(settings.web_bind)}:{settings.web_port}",
    # Faust's own pages would show the table to anyone; ours are in klais.worker.web
    web_tables_enabled=False,
    web_router_enabled=False,
    web_limits=ConnectionLimits.of(settings),
    Worker=worker_class(settings),
    # Faust would put its own handlers in place of those of klais.telemetry.log, and fields would be lost
    logging_config=dict_config(settings, "worker"),
    worker_redirect_stdouts=False,
)
raw_topic = app.topic(topics.raw, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
devices = app.Table(
    "devices",
    key_type=bytes,  # a type of bytes means raw keys and values to a table
    value_type=bytes,
    partitions=settings.partitions,
)
lanes = Store.lanes = Lanes()
control = ControlFollower(settings)
limits = LaneLimits(settings, control)
service = Service(app, settings, worker_id, lanes, limits, control)
_shared: Shared | None = None


async def shared_parts() -> Shared:
    """What all lanes share, made at first use (it needs the event loop and a broker)."""
    global _shared
    if _shared is None:
        # what is blocked must be known before the first frame is judged; a cluster without that topic must not stop us
        control.start()
        await asyncio.to_thread(control.wait_caught_up, CONTROL_WAIT_S)
        # for the journal, the outputs and the changelog: a small journal record never waits behind a large output
        producers = [await make_producer(settings) for _ in range(3)]
        metrics = service.report.metrics
        _shared = Shared(settings, topics, worker_id, limits, *producers)
        _shared.mend_commit = CommitMender(app, topics.raw)
        report = service.report
        _shared.on_step = both(metrics.processing.observe, report.processing.observe)
        _shared.on_sent = both(metrics.kafka.observe, report.kafka.observe)
    return _shared


@devices.on_recover
async def start_lanes() -> None:
    """The table is read: start the lanes of the partitions that are ours (an error here must not leave them unstarted)."""
    try:
        partitions = {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == topics.raw}
        shared = await shared_parts()
        await lanes.start(shared, partitions)
    except Exception as error:
        log.error("lanes_not_started", error=repr(error))
        await app.crash(error)


@app.on_partitions_revoked.connect
async def drop_lanes(_app: Any, revoked: Any, **_kwargs: Any) -> None:
    """Partitions go elsewhere, or come back in a moment: the journal has all that a successor needs."""
    await lanes.stop()


@app.task
async def report() -> None:
    """Statistics once a second."""
    await service.run()


@app.task
async def systemd() -> None:
    """Readiness and watchdog, where a service manager asks for them."""
    await service.tell_systemd()


@app.on_before_shutdown.connect
async def stop_cleanly(_app: Any, **_kwargs: Any) -> None:
    """A last checkpoint, then nothing is left open; intake has stopped already."""
    await service.stop()


import agents.ingest  # noqa: E402, F401  (declares the agent on the app above)
