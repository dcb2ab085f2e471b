"""The Faust application: topics, table and agents, declared once.

    klais_raw --ingest--> lanes --+--> iot_telemetry      clean records
                            |     +--> klais_anomalies    flags
        klais_journal <-----+     +--> klais_dead_letter  malformed frames
        devices, profiles <-+          klais_stats        once a second
        klais_control ----> limits of the lanes
              ^---- controller <------ klais_stats

Run it with ``faust -A agents.app worker -l info`` or ``klais worker``. Continue with :mod:`agents.ingest`, which
follows a frame batch through the worker, then :mod:`agents.controller` and :mod:`agents.service`.
"""

import sys
from typing import Any

from klais.system.imports import large_imports

with large_imports():
    import faust

    from agents import controller, ingest, service
    from agents.faust_ext import CONSUMER_SCHEME, STORE_URL, register
    from agents.faust_ext.web import App
    from agents.faust_ext.worker import worker_class
    from klais import fault
    from klais.config.load import Settings, load
    from klais.http.connections import ConnectionLimits
    from klais.kafka.clients import faust_broker
    from klais.kafka.topics import MAX_RECORD_BYTES, Topics
    from klais.system.address import http_host
    from klais.system.memory import limit_heap
    from klais.system.private_files import named_folder, own_folder, restrict_umask
    from klais.telemetry.log import dict_config, setup
    from klais.worker.lanes import Lanes
    from klais.worker.table_values import TABLES

# Python lets a computing thread run for 5 ms before another one may run. Threads that follow topics and count must not
# delay the lanes for that long.
SWITCH_INTERVAL_S = 0.001
# Deleted and created topics must be detected within seconds (aiokafka's default: five minutes).
METADATA_MAX_AGE_MS = 5_000
# aiokafka leaves the group for good if nothing is fetched for this long. A standby fetches nothing, and neither does a
# worker whose lanes wait for Kafka. Heartbeats show that the worker lives: consumer and lanes share one event loop.
MAX_POLL_INTERVAL_S = 10 * 365 * 86_400.0


def create_app(settings: Settings) -> faust.App:
    """Create the application of one worker. It connects to nothing before the worker runs."""
    limit_heap()
    setup(settings, "worker")
    fault.arm(settings.fault_point)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    register()
    restrict_umask()
    own_folder(named_folder(settings.state_dir, "KLAIS_STATE_DIR") / "faust")
    topics, lanes = Topics.of(settings), Lanes()
    app = App(topics.app_id, web_limits=ConnectionLimits.of(settings), **faust_settings(settings))
    raw = app.topic(topics.raw, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    # For a table the type bytes means raw keys and values. Its store reads them from the lanes.
    of_bytes: dict[str, Any] = {"key_type": bytes, "value_type": bytes, "partitions": settings.partitions}
    devices, _ = (
        app.Table(name, options={"lanes": lanes, "value": of}, help=of.__doc__, **of_bytes)
        for name, of in TABLES.items()
    )
    worker = service.Service(app, settings, lanes)
    ingest.declare(app, raw, lanes)
    controller.declare(app, worker.runtime.controller, worker.runtime.producer)
    service.declare(app, devices, worker)
    return app


def faust_settings(settings: Settings) -> dict[str, Any]:
    """Options of ``faust.App``."""
    broker, credentials = faust_broker(settings, faust.SASLCredentials)
    session_s = settings.session_timeout_s
    host = http_host(settings.web_bind)
    return {
        "broker": broker,
        "broker_consumer": [url.replace("kafka://", f"{CONSUMER_SCHEME}://", 1) for url in broker],
        "broker_credentials": credentials,
        "consumer_metadata_max_age_ms": METADATA_MAX_AGE_MS,
        "store": STORE_URL,
        "recovery_consistency_check": False,  # the store reports that there is nothing to recover, for any log
        "datadir": str(settings.state_dir / "faust"),
        "autodiscover": False,
        # `klais topics` creates and checks topics, not Faust
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "topic_partitions": settings.partitions,
        "consumer_auto_offset_reset": "earliest",
        "consumer_group_instance_id": settings.group_instance,
        # a record is a frame batch: few, large, acknowledged by the checkpoint
        "stream_buffer_maxsize": 32,
        "stream_wait_empty": False,
        "stream_publish_on_commit": False,
        "consumer_max_fetch_size": 2 * MAX_RECORD_BYTES,
        "producer_max_request_size": MAX_RECORD_BYTES,
        "broker_commit_interval": 1.0,
        "broker_commit_livelock_soft_timeout": 3600.0,
        "stream_processing_timeout": 3600.0,
        "broker_session_timeout": session_s,
        "broker_heartbeat_interval": min(2.0, session_s / 4),
        "broker_rebalance_timeout": max(10.0, session_s),
        "broker_max_poll_interval": MAX_POLL_INTERVAL_S,
        "broker_request_timeout": max(30.0, session_s + 5),
        "table_standby_replicas": 0,
        "web_bind": settings.web_bind,
        "web_port": settings.web_port,
        "web_host": host,
        "canonical_url": f"http://{settings.web_advertise or f'{host}:{settings.web_port}'}",
        # Faust's own pages would show the table and the application without a token; ours are in klais.worker.web
        **dict.fromkeys(("web_tables_enabled", "web_router_enabled", "debug"), False),
        "env": {},  # otherwise variables such as BROKER_URL and APP_DEBUG would override all of these
        "Worker": worker_class(settings),
        # Faust would replace the handlers of klais.telemetry.log, and fields would be lost
        "logging_config": dict_config(settings, "worker"),
        "worker_redirect_stdouts": False,
    }


app = create_app(load())
