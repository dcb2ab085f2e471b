"""The spine of the worker: every frame batch of the staging topic goes to the lane of its partition, in order."""

from typing import Any

from agents.app import app, lanes, raw_topic


@app.agent(raw_topic, concurrency=1)
async def ingest(stream: Any) -> None:
    """One Faust event is one frame batch. Acknowledged by the lane's checkpoint, never here."""
    async for event in stream.noack().events():
        await lanes.feed(stream, event)
