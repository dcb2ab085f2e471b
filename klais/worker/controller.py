"""The controller of a worker: it is a candidate for leadership, and as the leader decides ten times a second.

One worker of the deployment is the leader. :mod:`klais.control.election` decides when a worker may try, and
:class:`~klais.worker.term.Term` is one term of a leader. The Faust agent in :mod:`agents.controller` runs
:meth:`Controller.run`.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from klais.config.load import Settings
from klais.control.decide import Decision
from klais.control.election import PREFIX, Election
from klais.control.forecast import Predictor
from klais.control.setpoints import ControlFollower
from klais.errors import LaneFenced
from klais.kafka.same_id import SameIdCheck
from klais.kafka.stats import FRESH_S, ControlProducer, StatsFollower
from klais.system.tasks import end_task
from klais.telemetry import log as logs
from klais.telemetry.log import get
from klais.telemetry.snapshots import ControlSnapshot, IncidentSnapshot
from klais.telemetry.view import SystemView
from klais.traffic.chain import ForecastChain, Observe, predictor_of
from klais.worker.system_watch import SystemWatch
from klais.worker.term import Term, recent_gauges

log = get("klais.worker.controller")

POLL_INTERVAL_S = 0.1  # between two checks of who leads
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class ControllerStatistics:
    """Statistics of the controller of one worker since the process started.

    Attributes
    ----------
    epoch : int
        Epoch of this worker's newest term, -1 before its first.
    decisions, terms : int
        Records that it wrote to ``klais_control``, and terms that it began.
    newest : Decision or None
        The newest decision of the present term; None while this worker is not the leader.
    problems, warnings : tuple of str
        Why a better forecast is not in use: a model was refused or failed, or an extra is not installed.
    fallbacks : int
        Steps of the forecast chain that were skipped.
    incidents : IncidentSnapshot
        Of the present term; zeros while this worker is not the leader.
    clock_offset_s : float or None
        By how much this host's clock is ahead of the broker's; None = unknown.
    """

    epoch: int = -1
    decisions: int = 0
    terms: int = 0
    newest: Decision | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fallbacks: int = 0
    incidents: IncidentSnapshot = field(default_factory=IncidentSnapshot)
    clock_offset_s: float | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this worker decides now."""
        return self.newest is not None

    @property
    def burst_probability(self) -> float:
        """Burst probability of the newest decision, 0 to 1; 0 while this worker is not the leader."""
        return self.newest.inputs.forecast.probability if self.newest else 0.0

    def snapshot(self, overrides: int, enabled: bool) -> ControlSnapshot:
        """Statistics for the metrics; ``overrides``: active overrides; ``enabled``: the rate is not fixed."""
        if (d := self.newest) is None:
            return ControlSnapshot(
                enabled,
                decisions=self.decisions,
                terms=self.terms,
                overrides=overrides,
                forecast_fallbacks=self.fallbacks,
            )
        return ControlSnapshot(
            enabled,
            is_leader=True,
            decisions=self.decisions,
            terms=self.terms,
            overrides=overrides,
            pid_terms=d.terms._asdict(),
            error=d.errors.weighted,
            lag=d.inputs.lag,
            cpu=d.inputs.cpu,
            cut=d.cut.cut,
            forecast_fallbacks=self.fallbacks,
            traffic_class=d.inputs.forecast.kind,
            device_limit=d.defence.limit or 0.0,
            incidents=self.incidents,
        )


class Controller:
    """Follows another worker's decisions, or leads when there is no leader.

    Parameters
    ----------
    settings : Settings
        Settings of the worker.
    worker_id : str
        Id of the worker on ``klais_stats``.
    predictor : Predictor, optional
        The forecast; default: the one that ``KLAIS_FORECAST`` selects.
    observe : callable, optional
        Called with the name of the model's backend and the duration of each forecast (s).
    control : ControlFollower, optional
        The process's follower of ``klais_control``: as the leader it writes again what the topic has lost.

    Attributes
    ----------
    instance : str
        A random number that distinguishes this process from another one with the same id.
    stats : StatsFollower
        Reports of all processes; it follows the topic from the first candidacy on.
    """

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        predictor: Predictor | None = None,
        observe: Observe = lambda model, seconds: None,
        control: ControlFollower | None = None,
    ) -> None:
        self._settings, self._name, self._control = settings, f"{PREFIX}{worker_id}", control
        self._predictor = predictor or predictor_of(settings, observe)
        self.stats = StatsFollower(settings)
        self._worker_id = worker_id
        self.instance = f"{secrets.randbits(32):08x}"
        self._watch = SystemWatch(settings, self.stats, SameIdCheck(self.stats, worker_id, self.instance, "worker"))
        self._watching: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[Any] | None = None
        self._election = Election(worker_id, settings.session_timeout_s)
        self._term: Term | None = None
        self._before = ControllerStatistics()  # at the end of the last finished term
        self._task: asyncio.Task[None] | None = None
        self._resigned = False

    def statistics(self) -> ControllerStatistics:
        """Return the statistics up to now."""
        before, term = self._before, self._term
        problems, warnings, fallbacks = self._forecast_state()
        problems = (*self._watch.problems, *problems)
        clock = self.stats.clock_offset_s(self._worker_id)
        rest = (problems, warnings, fallbacks)
        if term is None or term.epoch is None:
            return ControllerStatistics(before.epoch, before.decisions, before.terms, None, *rest, clock_offset_s=clock)
        decisions, terms = before.decisions + term.decisions, before.terms + 1
        incidents = term.incidents.snapshot()
        return ControllerStatistics(
            term.epoch, decisions, terms, term.newest, *rest, incidents=incidents, clock_offset_s=clock
        )

    def _forecast_state(self) -> tuple[tuple[str, ...], tuple[str, ...], int]:
        """Problems, warnings and fallbacks of the forecast chain."""
        chain = self._predictor
        if not isinstance(chain, ForecastChain):
            return (), (), 0
        texts = [(f"forecast by {chain.step}: {step.model}: {step.why}", step.optional) for step in chain.fallbacks()]
        problems = tuple(text for text, optional in texts if not optional)
        return problems, tuple(text for text, optional in texts if optional), chain.fallbacks_total

    def system(self, fresh_s: float) -> SystemView:
        """The system as reported in the last ``fresh_s`` seconds; empty before the first candidacy."""
        return self.stats.view(fresh_s)

    def join_heartbeat(self) -> None:
        """See :meth:`Term.join_heartbeat`; does nothing while this worker is not the leader."""
        if self._term is not None:
            self._term.join_heartbeat(time.monotonic())

    @property
    def running(self) -> bool:
        """Whether a candidacy or a term is in progress."""
        return self._task is not None and not self._task.done()

    async def run(self, producer: ControlProducer) -> None:
        """Run one candidacy: wait for the election, then lead until another worker does. Errors are logged, not raised.

        ``producer`` writes the heartbeats. Returns immediately after :meth:`resign`.
        """
        if self._resigned:
            return
        self._task = asyncio.create_task(self._run(producer), name="controller")
        try:
            await self._task
        except asyncio.CancelledError:
            if not self._resigned:
                raise

    async def resign(self) -> None:
        """End the term permanently and announce it, so that another worker takes over without the timeout."""
        self._resigned = True
        ending = [end_task(self._task)]
        if self._watching is not None:
            ending += [end_task(self._watching), asyncio.to_thread(self.stats.stop)]
            if isinstance(self._predictor, ForecastChain):
                ending.append(asyncio.to_thread(self._predictor.stop))
        self._ending = asyncio.gather(*ending)  # the caller waits for a limited time: the rest goes on without it
        await asyncio.shield(self._ending)

    async def _run(self, producer: ControlProducer) -> None:
        if self._watching is None:
            self.stats.start()
            self._watching = asyncio.create_task(self._watch.run(), name="system-watch")
            if isinstance(self._predictor, ForecastChain):
                self._predictor.start()
        self._election.begin(time.monotonic())
        while not self._election.may_lead(  # noqa: ASYNC110
            time.monotonic(), recent_gauges(self.stats, "worker", FRESH_S), recent_gauges(self.stats, "controller")
        ):
            await asyncio.sleep(POLL_INTERVAL_S)
        while await self._lead(producer):
            pass

    async def _lead(self, producer: ControlProducer) -> bool:
        """Run one term; whether the next one begins immediately, under a new epoch."""
        rest = (producer, self.stats, self._counted, self._control)
        term = self._term = Term(self._settings, self._name, self._predictor, *rest)
        try:
            return await term.run()
        except LaneFenced as error:
            log.warning("controller_fenced", why=str(error), do="nothing: another worker is the leader")
        except Exception as error:
            if logs.every(10, "klais.worker.controller"):
                log.error("term_failed", error=repr(error), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        finally:
            ended = self.statistics()
            self._term, self._before = None, ControllerStatistics(ended.epoch, ended.decisions, ended.terms)
        return False

    def _counted(self) -> dict[str, int]:
        """Counters of the controller's record on ``klais_stats``."""
        now = self.statistics()
        return {"decisions": now.decisions, "terms": now.terms}
