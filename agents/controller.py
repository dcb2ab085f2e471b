"""The controller agent: of all workers one is the leader, and it computes the set-points of the whole system.

::

    one event = one candidacy of this worker
       |
    Controller.stand              klais/worker/controller.py      waits until no leader is heard
       |     Election.may_lead    klais/control/election.py
       v
    Term.run                      klais/worker/term.py            fences klais_control, then ten times a second:
       |     measure              klais/control/measure.py        lag and CPU of all processes, from klais_stats
       |     decide               klais/control/decide.py         PID output, burst forecast, rate and shares
       v
    Term -> klais_control         followed by every lane, every edge and the Applier of every host with a kernel filter
             Applier              klais/control/xdp_applier.py    set-points and blocks -> XDP maps

The agent has a channel in memory: control must go on through a rebalance, while Faust stops the topics of its
agents.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import faust
from faust.types import AgentT

from klais.kafka.stats import ControlProducer
from klais.worker.controller import Controller

CANDIDACY_INTERVAL_S = 0.2  # how soon a worker that lost a term, or was never a candidate, becomes one again


def declare(app: faust.App, controller: Controller, producer: Callable[[], ControlProducer]) -> AgentT[Any]:
    """Declare the agent, and the task that makes this worker a candidate again whenever it is none.

    ``producer`` gives the one that writes the heartbeats; called once the worker runs.
    """

    @app.agent(app.channel(), name="controller", concurrency=1)
    async def controller_agent(stream: Any) -> None:
        """Stand for election, and lead until another worker does."""
        async for _ in stream:
            await controller.stand(producer())

    @app.task
    async def candidate() -> None:
        """One candidacy at a time. None may wait in the channel: Faust empties its channels at the end of a rebalance.

        It does so without waking a sender that waits for room, so nothing here may wait for a full channel either.
        """
        while not app.should_stop:
            if not controller.standing:
                await controller_agent.cast()
            await asyncio.sleep(CANDIDACY_INTERVAL_S)

    return controller_agent
