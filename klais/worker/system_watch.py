"""Watches the reports of all processes for what no single process can see: no leader, partitions without a lane."""

import asyncio
import time

from klais.config.load import Settings
from klais.kafka.same_id import SameIdCheck
from klais.kafka.stats import FRESH_S, StatsFollower
from klais.kafka.topics import Topics
from klais.telemetry import log as logs
from klais.worker.term import recent_gauges

log = logs.get("klais.worker.system_watch")

PERIOD_S = 1.0
LANELESS_S = 60.0  # a rebalance takes less; lanes that recover report their progress
LEADERLESS_S = 30.0  # an election takes a session timeout at most, a fence some seconds


class SystemWatch:
    """Looks once a second (:meth:`run`).

    Parameters
    ----------
    settings : Settings
        Settings of the worker.
    stats : StatsFollower
        Reports of all processes, followed since :meth:`run` began.
    same_id : SameIdCheck
        Whether another worker reports under this one's id.

    Attributes
    ----------
    problems : tuple of str
        What was found, as texts with what to do; empty if nothing was.
    """

    def __init__(self, settings: Settings, stats: StatsFollower, same_id: SameIdCheck) -> None:
        self._settings, self._stats, self._same_id = settings, stats, same_id
        self._laned_s: dict[int, float] = {}  # when a worker last reported each partition's lane
        self._led_s: float | None = None  # when a leader, or no process at all, was last seen
        self.problems: tuple[str, ...] = ()

    async def run(self) -> None:
        """Look once a second until cancelled."""
        while True:
            try:
                self.tick(time.monotonic())
            except Exception:
                if logs.every(60, "klais.worker.system_watch"):
                    log.exception("system_watch_failed")
            await asyncio.sleep(PERIOD_S)

    def tick(self, now_s: float) -> None:
        """Look at the newest reports (``now_s`` monotonic)."""
        self._same_id.on_tick(now_s)
        self._note(now_s)
        found = (*self._leaderless(now_s), *self._laneless(now_s), self._same_id.problem())
        self.problems = tuple(text for text in found if text)

    def _note(self, now_s: float) -> None:
        """Note who leads, and which partitions have a lane."""
        leads = any(
            gauges.epoch is not None for _, gauges in recent_gauges(self._stats, "controller", FRESH_S).values()
        )
        # Without any record Kafka is away, which is another problem.
        if leads or self._led_s is None or not self._stats.newest("worker"):
            self._led_s = now_s
        view = self._stats.view(max(FRESH_S, self._settings.session_timeout_s))
        there = view.live_lanes() | set(view.restoring())
        ours = range(self._settings.partitions)
        self._laned_s = {p: now_s if p in there or not view.workers else self._laned_s.get(p, now_s) for p in ours}

    def _leaderless(self, now_s: float) -> tuple[str, ...]:
        """What to say where no controller leads, although processes are heard; empty while one does."""
        if self._led_s is None or now_s - self._led_s < LEADERLESS_S:
            return ()
        return (
            f"no controller has led for {now_s - self._led_s:.0f} s: limits stay as they are, no incident is found; "
            "look for term_failed in the logs of the workers",
        )

    def _laneless(self, now_s: float) -> tuple[str, ...]:
        """What to say about partitions whose lanes no worker has, for example because another program has them."""
        gone = [p for p, at_s in self._laned_s.items() if now_s - at_s >= LANELESS_S]
        if not gone:
            return ()
        group = Topics.of(self._settings).app_id
        return (
            f"no worker has had a live lane of {len(gone)} partitions for {LANELESS_S:.0f} s ({_few(gone)}), their "
            f"frames wait in klais_raw: a worker names its failed lanes; if none has failed, another program is a "
            f"member of the consumer group {group} and must leave it (kafka-consumer-groups --describe --members)",
        )


def _few(numbers: list[int]) -> str:
    """Some of many numbers."""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
