"""The main sequence of ``klais up``: check, start, watch, stop.

start:   check ports -> Kafka, topics, kernels -> workers -> (counting starts) -> edge -> simulator
watch:   refresh the view once a second until the time is up or a signal arrives
stop:    simulator -> edge drains -> wait until all frames have landed -> workers -> Kafka -> summary
"""

import os
import signal
import time
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any

import psutil

from klais.cli.up.launch_options import LaunchOptions, udp_target
from klais.cli.up.reporter import Addresses, Reporter, Summary
from klais.cli.up.sampler import Sampler
from klais.cli.up.snapshot import Monitor, count_text
from klais.cli.up.supervisor import Supervisor
from klais.kafka.stats import StatsFollower
from klais.kafka.topics import Topics
from klais.verify.conservation import reconcile

REFRESH_S = 1.0
TICK_S = 0.1
SETTLE_S = 30.0  # after --for, wait at most this long until all frames have landed
SETTLE_SIGNAL_S = 3.0  # the same after Ctrl-C
OTHERS_S = 5.0  # a system with other edges is never idle: continue after this time
COUNT_S = 60.0
EXIT_KILLED = 130


class _Stopped(BaseException):
    """A signal arrived during the start (a BaseException, so that no handler on the way catches it)."""


class Up:
    """One run; :meth:`run` returns the exit code."""

    def __init__(self, options: LaunchOptions, reporter: Reporter) -> None:
        self.options, self.reporter = options, reporter
        settings = options.settings
        self.supervisor = Supervisor(options, reporter.progress)
        self.follower = StatsFollower(settings)
        self.sampler = Sampler(settings)
        self.view = Monitor(f"edge-{settings.edge_id}", settings.partitions, self.follower, self.sampler)
        self._asked = 0
        self._starting = True

    def run(self) -> int:
        """Run everything, from the first check to the end of the last child process.

        Raises
        ------
        klais.errors.KlaisError
            If it could not start, or a child failed permanently; all processes are stopped then.
        """
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is not signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
                signal.signal(name, self._on_signal)
        summary = None
        try:
            self.supervisor.check()
            self._start()
            self._watch()
            summary = self._settle()
        except _Stopped:
            self.reporter.progress("stopping")
        finally:
            self._starting = False
            with ExitStack() as closing:  # in reverse order, each whatever the others raise
                for stop in (self.supervisor.stop, self.follower.stop, self.sampler.stop, self.reporter.close):
                    closing.callback(stop)
        if summary is None:
            return 0
        self.reporter.summary(summary)
        return 1 if summary.differences and not self._asked else 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked += 1
        if self._asked > 1:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has ended by itself
                    child.kill()
            os._exit(EXIT_KILLED)
        if self._starting:
            raise _Stopped

    def _start(self) -> None:
        supervisor = self.supervisor
        supervisor.start_kafka()
        self.follower.start()
        self.sampler.start()
        supervisor.start_workers()
        self._wait_until_idle()
        self.view.start()
        supervisor.start_edge()
        if self.options.simulate:
            self.view.follow_simulator(supervisor.start_simulator())
        self._starting = False
        self.view.start_clock()
        self.reporter.ready(self._addresses())

    def _wait_until_idle(self) -> None:
        """Wait until the workers have read all of klais_raw and two of their records confirm it. Counting starts."""
        began_s, seen = time.monotonic(), set[Any]()

        def idle() -> bool:
            system = self.follower.view()
            live = system.gauge("lanes_live") == self.options.settings.partitions
            unread = any(worker.gauges.lag != 0 for worker in system.workers.values())
            if not live or unread or self.sampler.ends() is None:
                seen.clear()
                return False
            seen.add(tuple(worker.at_ms for worker in system.workers.values()))
            return len(seen) >= 2

        reported_s = began_s
        while not idle():
            now_s = time.monotonic()
            self.supervisor.poll()
            if self.follower.newest("edge") and now_s - began_s > OTHERS_S:
                return
            if now_s - reported_s >= OTHERS_S:
                reported_s = now_s
                self.reporter.progress(
                    f"worker: reading what klais_raw still holds, lag {count_text(self.view.snapshot().lag)} batches"
                )
            time.sleep(TICK_S)

    def _addresses(self) -> Addresses:
        settings, options = self.options.settings, self.options
        traffic = "as on NASA's launch day" if options.rate is None else f"{options.rate:,.0f} frames/s"
        return Addresses(
            kafka=settings.bootstrap,
            udp=udp_target(settings),
            rest=self.supervisor.rest,
            views=self.supervisor.views,
            telemetry=Topics.of(settings).telemetry,
            logs=str(self.supervisor.logs),
            simulated=f"{options.devices:,} simulated devices, {traffic}" if options.simulate else None,
        )

    def _watch(self) -> None:
        """Refresh the view once a second until the time is up or a signal arrives."""
        began_s = next_s = time.monotonic()
        until_s = float("inf") if self.options.duration_s is None else began_s + self.options.duration_s
        while not self._asked and time.monotonic() < until_s:
            self.supervisor.poll()
            now_s = time.monotonic()
            if now_s >= next_s:
                next_s = max(next_s + REFRESH_S, now_s)
                self.view.refresh()
                if now_s > began_s + REFRESH_S / 2:
                    self.reporter.snapshot(self.view.snapshot())
            time.sleep(min(TICK_S, max(0.0, until_s - time.monotonic())))

    def _settle(self) -> Summary:
        """Stop sender and edge, wait until all accepted frames have landed, and reconcile the counters."""
        seconds = self.view.snapshot().elapsed_s
        self.reporter.progress(
            "stopping: simulator and edge first, then waiting until all published frames have landed"
        )
        self.supervisor.stop_simulator()
        self.supervisor.stop_edge()
        until_s = time.monotonic() + (SETTLE_SIGNAL_S if self._asked else SETTLE_S)
        found = self._reconcile()
        while found and time.monotonic() < until_s and self._workers_run():
            if self._asked:
                until_s = min(until_s, time.monotonic() + SETTLE_SIGNAL_S)
            time.sleep(TICK_S)
            found = self._reconcile()
        if self._asked == 0:
            found = self._count_landed()
        waiting = None
        if found and self.view.account.restarted:
            waiting = "edge or simulator was restarted: its last counts before that are unknown"
        elif found and self._asked:
            waiting = "stopped before all had landed: the rest is in klais_raw and lands at the next start"
        return Summary(seconds, self.view.account.totals(), self.options.simulate, found, waiting)

    def _reconcile(self) -> list[str]:
        self.view.refresh()
        return reconcile(self.view.account.totals(), self.options.simulate, not self.view.others)

    def _workers_run(self) -> bool:
        return all(worker.pid is not None for worker in self.supervisor.workers)

    def _count_landed(self) -> list[str]:
        """Count the records: end offsets also count the control records of each restart of a lane.

        So equal end offsets are no proof: as many records as that may be missing.
        """
        ends = self.sampler.ends()
        if ends is None:
            return self._reconcile()
        counted = self.sampler.count(self.view.start_ends, ends, COUNT_S)
        if counted is not None:
            self.view.account.observe_landed(sum(self.view.start_ends.values()) + counted)
        return reconcile(self.view.account.totals(), self.options.simulate, not self.view.others)
