"""The controller agent: one of all workers is the leader and computes the set-points of the whole system.

::

    one event = one candidacy of this worker
       |
    Controller.run                klais/worker/controller.py      waits until no leader sends heartbeats
       |     Election.may_lead    klais/control/election.py
       v
    Term.run                      klais/worker/term.py            fences klais_control, then ten times a second:
       |     measure              klais/control/measure.py        lag and CPU of all processes, from klais_stats
       |     decide               klais/control/decide.py         PID output, burst forecast, rate and shares
       v
    Term -> klais_control         followed by every lane, every edge and the Applier of every host with an XDP filter
             Applier              klais/control/xdp_applier.py    set-points and blocks -> XDP maps

The agent uses an in-memory channel: control must continue during a rebalance, while Faust stops the topics of its
agents.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import faust
from faust.types import AgentT

from klais.kafka.stats import ControlProducer
from klais.worker.controller import Controller

CANDIDACY_INTERVAL_S = 0.2  # delay until a worker that lost a term, or was never a candidate, becomes one again


def declare(app: faust.App, controller: Controller, producer: Callable[[], ControlProducer]) -> AgentT[Any]:
    """Declare the agent, and the task that makes this worker a candidate whenever it is not one.

    ``producer`` returns the producer of the heartbeats; it is called when the worker runs.
    """

    @app.agent(app.channel(), name="controller", concurrency=1)
    async def controller_agent(stream: Any) -> None:
        """Be a candidate, and lead until another worker does."""
        async for _ in stream:
            await controller.run(producer())

    @app.task
    async def candidate() -> None:
        """Keep one candidacy at a time. None may wait in the channel: Faust empties channels at the end of a rebalance.

        Faust does not wake senders that wait for room then, so nothing here may wait for a full channel.
        """
        while not app.should_stop:
            if not controller.running:
                await controller_agent.cast()
            await asyncio.sleep(CANDIDACY_INTERVAL_S)

    return controller_agent
