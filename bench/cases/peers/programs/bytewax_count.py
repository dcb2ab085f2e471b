"""Bytewax: check each frame, count the frames of each device with ``stateful_map``; state in a recovery store.

As its guide has it, a snapshot every 10 s; it has no changelog topic. Run by ``bytewax.run``.
"""

import json
import os
import struct
import time
from pathlib import Path

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import init_db_dir

HEADER = struct.Struct(">H16sI")
MAGIC = 0xAA55
BROKERS = os.environ["PEER_BOOTSTRAP"].split(",")
Record = tuple[int, bytes]


def read(message: "KafkaSourceMessage[bytes, bytes]") -> tuple[str, Record] | None:
    """Device, sequence and payload of a frame; None when it is malformed."""
    frame = message.value
    try:
        magic, padded, sequence = HEADER.unpack_from(frame)
        json.loads(frame[HEADER.size :])
        device_id = padded.rstrip(b"\0").decode()
    except (struct.error, ValueError):
        return None
    return (device_id, (sequence, frame[HEADER.size :])) if magic == MAGIC else None


def count(state: int | None, record: Record) -> tuple[int, tuple[int, Record]]:
    """The device's frames so far, and the frame with them."""
    seen = (state or 0) + 1
    return seen, (seen, record)


def clean(item: tuple[str, tuple[int, Record]]) -> "KafkaSinkMessage[bytes, bytes]":
    """The record of a frame."""
    device_id, (seen, (sequence, payload)) = item
    now_ms = time.time_ns() // 1_000_000
    record = {"device_id": device_id, "seq": sequence, "ts": now_ms, "data": json.loads(payload), "count": seen}
    return KafkaSinkMessage(device_id.encode(), json.dumps(record, separators=(",", ":")).encode())


init_db_dir(Path(os.environ["PEER_STATE"]), 1)
flow = Dataflow("count")
source = kop.input("in", flow, brokers=BROKERS, topics=[os.environ["PEER_RAW"]])
counted = op.stateful_map("count", op.filter_map("read", source.oks, read), count)
sink = {"acks": "all", "compression.type": "lz4", "linger.ms": "10"}
kop.output("out", op.map("clean", counted, clean), brokers=BROKERS, topic=os.environ["PEER_CLEAN"], add_config=sink)
