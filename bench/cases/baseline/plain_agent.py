"""A plain implementation of the worker: a Faust agent that handles one frame an event, for comparison only.

It follows Faust's guide: a topic with a stream, ``json.loads``, a table keyed by the stream's key that is set for each
event, ``topic.send`` of the result, without settings that slow Faust down. It does less than KLAIS: no journal, no
rates, no scores, and a crash may duplicate its output.

    PLAIN_BROKER=kafka://127.0.0.1:9092 PLAIN_PREFIX=x- faust -A bench.cases.baseline.plain_agent worker
"""

import json
import os
import struct
import time
from typing import Any

import faust

PREFIX = os.environ.get("PLAIN_PREFIX", "plain-")
HEADER = struct.Struct(">H16sI")
MAGIC = 0xAA55

app = faust.App(
    f"{PREFIX}plain",
    broker=os.environ.get("PLAIN_BROKER", "kafka://127.0.0.1:9092"),
    store="memory://",
    topic_partitions=int(os.environ.get("PLAIN_PARTITIONS", "4")),
    web_enabled=False,
    producer_linger_ms=5,
    producer_acks=-1,
)
frames = app.topic(f"{PREFIX}frames", key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
clean = app.topic(f"{PREFIX}clean", key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
devices = app.Table("devices", default=dict)


def read(frame: bytes) -> tuple[str, int, dict[str, Any]] | None:
    """Device id, sequence and payload of a frame; None when it is malformed."""
    try:
        magic, padded, sequence = HEADER.unpack_from(frame)
        payload = json.loads(frame[HEADER.size :])
        device_id = padded.rstrip(b"\0").decode()
    except (struct.error, ValueError):
        return None
    return (device_id, sequence, payload) if magic == MAGIC and device_id and isinstance(payload, dict) else None


def profile(state: dict[str, Any], sequence: int, payload: dict[str, Any]) -> dict[str, Any]:
    """The device's new state: last sequence, frames seen, running mean of each numeric field."""
    count = state.get("count", 0) + 1
    means = dict(state.get("means", {}))
    for name, value in payload.items():
        if isinstance(value, int | float):
            mean = means.get(name, value)
            means[name] = mean + (value - mean) / count
    return {"sequence": sequence, "count": count, "means": means}


@app.agent(frames)
async def handle(stream: Any) -> None:
    """Handle one frame: check it, drop repeats, set the table, send the clean record."""
    async for key, frame in stream.items():
        found = read(frame)
        if found is None:
            continue
        device_id, sequence, payload = found
        state = devices[device_id]
        if state.get("sequence") == sequence:
            continue
        devices[device_id] = profile(state, sequence, payload)
        record = {"device_id": device_id, "seq": sequence, "ts": time.time_ns() // 1_000_000, "data": payload}
        await clean.send(key=key, value=json.dumps(record, separators=(",", ":")).encode())
