"""QuixStreams: check each frame, count the frames of each device in a state store with a changelog topic.

As its guide has it: ``apply(..., stateful=True)`` and ``to_topic``; at least once, as by default. It writes what the
plain Faust agent writes.
"""

import json
import os
import struct
import time
from typing import Any

from quixstreams import Application, State

HEADER = struct.Struct(">H16sI")
MAGIC = 0xAA55

app = Application(
    broker_address=os.environ["PEER_BOOTSTRAP"],
    consumer_group=os.environ["PEER_GROUP"],
    auto_offset_reset="earliest",
    state_dir=os.environ["PEER_STATE"],
    producer_extra_config={"acks": "all", "compression.type": "lz4", "linger.ms": 10},
    loglevel="WARNING",
)


def count(frame: bytes, state: State) -> dict[str, Any] | None:
    """The clean record of a frame; None when it is malformed."""
    try:
        magic, padded, sequence = HEADER.unpack_from(frame)
        payload = json.loads(frame[HEADER.size :])
        device_id = padded.rstrip(b"\0").decode()
    except (struct.error, ValueError):
        return None
    if magic != MAGIC or not isinstance(payload, dict):
        return None
    seen = state.get("count", 0) + 1
    state.set("count", seen)
    return {"device_id": device_id, "seq": sequence, "ts": time.time_ns() // 1_000_000, "data": payload, "count": seen}


def main() -> None:
    """Run until SIGTERM."""
    raw = app.topic(os.environ["PEER_RAW"], key_deserializer="bytes", value_deserializer="bytes")
    clean = app.topic(os.environ["PEER_CLEAN"], key_serializer="bytes", value_serializer="json")
    frames = app.dataframe(raw)
    frames = frames.apply(count, stateful=True)
    frames = frames[frames.apply(lambda record: record is not None)]
    frames.to_topic(clean)
    app.run()


if __name__ == "__main__":
    main()
