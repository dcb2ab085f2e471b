"""The ingest agent: the path of a frame batch through the worker, in order. One Faust event is one frame batch.

::

    klais_raw
       |     LoopConsumer          agents/faust_ext/transport.py   one consumer for all partitions, in the worker's loop
       |     CoalescingFetcher     klais/kafka/coalescing_fetcher.py   waits for all partitions of a burst
       v
    ingest                         agents/ingest.py                this agent
       v
    Lanes.put                      klais/worker/lanes.py           finds the lane of the partition
       |     Intake.put            klais/worker/intake.py          bounded: never waits for a lane that is not live
       v
    Lane.run                       klais/worker/lane.py            the main loop of a lane
       |     LaneSession.decide    klais/worker/session.py         with the limits in force
       |     take_raw              klais/core/lane/step.py         decode, a verdict for each frame, dam, anomaly scores
       v
    Journal.put                    klais/worker/outputs.py         the step is sent to klais_journal
       v     LaneSession.send_outputs  klais/worker/session.py     once the journal record is acknowledged
    Telemetry.write                klais/worker/outputs.py         admitted frames -> iot_telemetry
    Records.write                  klais/worker/outputs.py         flags -> klais_anomalies, bad -> klais_dead_letter
       |
       v     every few seconds, at a step whose outputs are acknowledged
    Checkpointer.run_once          klais/worker/checkpoint.py      rows and marker -> changelog of the devices table,
                                                                   then the input is acknowledged, in order
    CommitRepair                   agents/faust_ext/commits.py     before that: commits that Faust gave up

The decisions of a lane depend only on the record, the lane's state, the time and the limits (``klais/core``), so that
its next owner can replay the journal. ``klais/worker/recovery.py`` does that when a partition is assigned here.
"""

from typing import Any

import faust
from faust.types import AgentT, TopicT

from klais.worker.lanes import Lanes


def declare(app: faust.App, raw: TopicT, lanes: Lanes) -> AgentT[Any]:
    """Declare the agent over the staging topic ``raw``."""

    # One at a time: records of a partition must reach its lane in offset order.
    @app.agent(raw, name="ingest", concurrency=1)
    async def ingest(stream: Any) -> None:
        """Hand each frame batch to the lane of its partition; the lane's checkpoint acknowledges it."""
        async for event in stream.noack().events():
            await lanes.put(event.message.partition, stream, event)

    return ingest
