"""Figures for ``klais top``: one thread reads the page's stream, another queries devices while they are shown."""

import threading
from typing import Any

from klais.cli.output import Row
from klais.cli.views import WorkerViews, lacks
from klais.errors import WorkerUnavailable

RETRY_S = 1.0
DEVICES_S = 2.0
Question = dict[str, str | int | None]


class Feed:
    """The newest figures of one worker.

    Parameters
    ----------
    views : WorkerViews
        The worker. If it does not respond, both threads retry every second.
    """

    def __init__(self, views: WorkerViews) -> None:
        self._views = views
        self._lock = threading.Lock()
        self._event: dict[str, Any] | None = None
        self._problems: dict[str, str | None] = {}
        self._devices: list[Row] = []
        self._question: Question | None = None
        self._asked = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start reading."""
        for run in (self._follow, self._ask):
            threading.Thread(target=run, daemon=True, name=f"top{run.__name__}").start()

    def stop(self) -> None:
        """Stop, without waiting for a worker that does not respond."""
        self._stopped.set()
        self._asked.set()

    def want(self, question: Question | None) -> None:
        """Set the query of shown devices; None: none are shown."""
        with self._lock:
            changed = question != self._question
            self._question = question
        if changed:
            self._asked.set()

    def newest(self) -> tuple[dict[str, Any] | None, list[Row], str | None]:
        """The newest event, the devices, and why there is no newer one."""
        with self._lock:
            problems = [self._problems.get("stream"), self._problems.get("devices") if self._question else None]
            return self._event, self._devices, next((problem for problem in problems if problem), None)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            try:
                for event in self._views.events():
                    with self._lock:
                        self._event, self._problems["stream"] = event, None
                    if self._stopped.is_set():
                        return
                self._failed("stream", "the worker ended its stream")
            except WorkerUnavailable as error:
                self._failed("stream", str(error))
            self._stopped.wait(RETRY_S)

    def _failed(self, what: str, problem: str) -> None:
        with self._lock:
            self._problems[what] = problem

    def _ask(self) -> None:
        while not self._stopped.is_set():
            self._asked.clear()
            with self._lock:
                question = self._question
            if question is not None:
                try:
                    page = self._views.get("/devices/", **question)
                except WorkerUnavailable as error:
                    self._failed("devices", str(error))
                else:
                    with self._lock:
                        self._devices, self._problems["devices"] = page["items"], lacks([page])
            self._asked.wait(DEVICES_S)
