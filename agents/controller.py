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

The agent has a channel in memory instead of a topic: a candidacy or a term goes on during a rebalance, while Faust
fetches no records for agents.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.types import AgentT

from klais.kafka.stats import ControlProducer
from klais.worker.controller import Controller

CANDIDACY_INTERVAL_S = 0.2  # delay until a worker that lost a term, or was never a candidate, becomes one again
CAST_S = 5.0  # for handing a candidacy to the agent


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
        """Hand a candidacy to the agent whenever none is in progress."""
        await stay_candidate(app, controller, controller_agent.cast)

    return controller_agent


async def stay_candidate(app: faust.App, controller: Controller, cast: Callable[[], Awaitable[Any]]) -> None:
    """Call ``cast`` whenever no candidacy is in progress, until the app stops.

    During a rebalance channels accept nothing, and at its begin and end Faust empties them. It does not wake a sender
    that waits for room in a full one, so each call has a time limit.
    """
    while not app.should_stop:
        if not controller.running:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CAST_S):
                    await cast()
        await asyncio.sleep(CANDIDACY_INTERVAL_S)
