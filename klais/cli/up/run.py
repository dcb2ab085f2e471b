"""The spine of ``klais up``: check, start, watch, stop.

check ports -> Kafka, topics, kernels -> workers -> (count from here) -> edge -> simulator
watch, a look a second, until time is up or a signal comes
simulator -> edge drains -> all landed? -> workers -> Kafka -> summary
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import psutil

from klais.cli.up.launch_options import Plan, udp_target
from klais.cli.up.reporter import Addresses, Summary, Voice
from klais.cli.up.sampler import Sampler
from klais.cli.up.snapshot import Look, Simulated
from klais.cli.up.supervisor import System
from klais.kafka.stats import StatsFollower
from klais.kafka.topics import Topics
from klais.verify.conservation import differences

LOOK_S = 1.0
TICK_S = 0.1
SETTLE_S = 30.0  # after --for, at most so long until all has landed
SETTLE_SIGNAL_S = 3.0  # after Ctrl-C people want to go home
OTHERS_S = 5.0  # where other edges feed the system too it never comes to rest: go on after so long
COUNT_S = 60.0
EXIT_KILLED = 130


class _Stopped(BaseException):
    """A signal came while everything was still starting (not an Exception: nothing on the way may catch it)."""


class Up:
    """One run; :meth:`run` gives the exit code."""

    def __init__(self, plan: Plan, voice: Voice) -> None:
        self.plan, self.voice = plan, voice
        settings = plan.settings
        self.system = System(plan, voice.say)
        self.follower = StatsFollower(settings)
        self.sampler = Sampler(settings)
        self.look = Look(f"edge-{settings.edge_id}", settings.partitions, self.follower, self.sampler)
        self._asked = 0
        self._starting = True

    def run(self) -> int:
        """Everything, from the first check to the end of the last child.

        Raises
        ------
        klais.errors.KlaisError
            It could not start, or a child failed for good; all that ran is stopped.
        """
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is not signal.SIG_IGN:  # nohup means it
                signal.signal(name, self._on_signal)
        summary = None
        try:
            self.system.check()
            self._start()
            self._watch()
            summary = self._settle()
        except _Stopped:
            self.voice.say("stopping")
        finally:
            self._starting = False
            self._stop_looking()
            self.system.stop()
        if summary is None:
            return 0
        self.voice.summary(summary)
        return 1 if summary.differences and not self._asked else 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked > 1:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            os._exit(EXIT_KILLED)
        if self._starting:
            raise _Stopped

    def _start(self) -> None:
        system = self.system
        system.start_kafka()
        self.follower.start()
        self.sampler.start()
        system.start_workers()
        self._wait_until_idle()
        self.look.start()
        system.start_edge()
        if self.plan.simulate:
            self.look.simulated = Simulated(system.start_simulator())
        self._starting = False
        self.look.start_clock()
        self.voice.ready(self._addresses())

    def _wait_until_idle(self) -> None:
        """Until the workers have taken what klais_raw held before, and have said so twice: from there on we count."""
        began_s, seen = time.monotonic(), set[Any]()

        def idle() -> bool:
            records = list(self.follower.newest("worker").values())
            live = sum(record["gauges"].get("lanes_live", 0) for record in records) == self.plan.settings.partitions
            if not live or self.sampler.ends() is None or any(record["gauges"].get("lag", 1) for record in records):
                seen.clear()
                return False
            seen.add(tuple(record["at_ms"] for record in records))
            return len(seen) >= 2

        told_s = began_s
        while not idle():
            now_s = time.monotonic()
            self.system.look()
            if self.follower.newest("edge") and now_s - began_s > OTHERS_S:
                return
            if now_s - told_s >= OTHERS_S:
                told_s = now_s
                self.voice.say(f"worker: taking what klais_raw still holds, lag {self.look.figures().lag:,} batches")
            time.sleep(TICK_S)

    def _addresses(self) -> Addresses:
        settings, plan = self.plan.settings, self.plan
        traffic = "as on NASA's launch day" if plan.rate is None else f"{plan.rate:,.0f} frames/s"
        return Addresses(
            kafka=settings.bootstrap,
            udp=udp_target(settings),
            rest=self.system.rest,
            views=self.system.views,
            telemetry=Topics.of(settings).telemetry,
            logs=str(self.system.logs),
            simulated=f"{plan.devices:,} simulated devices, {traffic}" if plan.simulate else None,
        )

    def _watch(self) -> None:
        """A look a second until time is up, or a signal comes."""
        began_s = next_s = time.monotonic()
        until_s = float("inf") if self.plan.duration_s is None else began_s + self.plan.duration_s
        while not self._asked and time.monotonic() < until_s:
            self.system.look()
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = max(next_s + LOOK_S, now_s)
                self.look.refresh()
                if now_s > began_s + LOOK_S / 2:
                    self.voice.figures(self.look.figures())
            time.sleep(min(TICK_S, max(0.0, until_s - time.monotonic())))

    def _settle(self) -> Summary:
        """Stop what sends and what receives, wait until all that was taken has landed, and add up."""
        seconds = self.look.figures().elapsed_s
        self.voice.say("stopping: simulator and edge first, then what they published lands")
        self.system.stop_simulator()
        self.system.stop_edge()
        until_s = time.monotonic() + (SETTLE_SIGNAL_S if self._asked else SETTLE_S)
        found = self._differences()
        while found and time.monotonic() < until_s and self._workers_run():
            if self._asked:
                until_s = min(until_s, time.monotonic() + SETTLE_SIGNAL_S)
            time.sleep(TICK_S)
            found = self._differences()
        if found and self._asked == 0:
            found = self._count_landed()
        waiting = None
        if found and self.look.ledger.restarted:
            waiting = "edge or simulator was started again: what it counted just before its end is not known"
        elif found and self._asked:
            waiting = "stopped before all had landed: the rest is in klais_raw and lands at the next start"
        return Summary(seconds, self.look.ledger.totals(), self.plan.simulate, found, waiting)

    def _differences(self) -> list[str]:
        self.look.refresh()
        return differences(self.look.ledger.totals(), self.plan.simulate, not self.look.others)

    def _workers_run(self) -> bool:
        return all(worker.pid is not None for worker in self.system.workers)

    def _count_landed(self) -> list[str]:
        """End offsets also count the markers that a lane leaves when it starts anew: then the records are counted."""
        ends = self.sampler.ends()
        if ends is None:
            return self._differences()
        counted = self.sampler.count(self.look.start_ends, ends, COUNT_S)
        if counted is not None:
            self.look.ledger.see_landed(sum(self.look.start_ends.values()) + counted)
        return differences(self.look.ledger.totals(), self.plan.simulate, not self.look.others)

    def _stop_looking(self) -> None:
        stops: list[Callable[[], None]] = [self.voice.close, self.sampler.stop, self.follower.stop]
        for stop in stops:
            stop()
