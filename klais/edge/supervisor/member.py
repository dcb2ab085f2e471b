"""One place of a fleet: its socket, its processes, and their reports.

Usually a place has one process. During an upgrade it has two for some seconds, and both receive. So the figures of a
place are sums over all its processes, those that ended included: each leaves its last figures in a file when it ends.
"""

import contextlib
import signal
from pathlib import Path
from typing import Any

import orjson

from klais.config.layers import GIVEN_OPTIONS
from klais.config.load import Settings, child_environ
from klais.edge.supervisor.merge import sum_metrics
from klais.http import client
from klais.http.tokens import token_to_read
from klais.system.activation import HeldSocket
from klais.system.child import OwnedChild
from klais.system.numa import format_cpus
from klais.system.ports import free_port
from klais.system.private_files import own_folder
from klais.system.processes import python_module
from klais.system.supervised import Service
from klais.telemetry.counters import add

ASK_S = 2.0
STOP_S = 12.0

Report = dict[str, Any]
"""``counters``, ``gauges``, ``metrics`` (text) of one process; ``stats``: body of ``/stats``, if it runs."""


class Ended:
    """Sums over the processes of a place that ended.

    Attributes
    ----------
    counters : dict
        Their last counters. ``left_at_end`` are frames that they neither published nor dropped: the next process finds
        those of the spool (``spool_recovered``), and the others are lost, after a kill for example.
    metrics : str
        Their last metrics that count.
    """

    def __init__(self, counters: dict[str, Any] | None = None, metrics: str = "") -> None:
        self.counters, self.metrics = counters or {"left_at_end": 0}, metrics

    def plus(self, report: Report) -> "Ended":
        """With one more process."""
        left = {"left_at_end": int(report["gauges"].get("queue_depth", 0))}
        metrics = sum_metrics([self.metrics, report["metrics"]], counters_only=True)
        return Ended(add(self.counters, report["counters"] | left), metrics)


class Member:
    """One member of the fleet.

    Parameters
    ----------
    settings, number, cpus, held, now
        Of the fleet; the number of the place, its CPUs, its socket; do not wait for Kafka at the end.
    folder : Path or None
        Where processes leave their last figures; None = nowhere.

    Attributes
    ----------
    seen : tuple of Ended and dict of int to dict
        The processes that ended, and the newest reports of those that run, by process id. Replaced as a whole, so that
        a reader in another thread sees each process once.
    """

    def __init__(
        self,
        settings: Settings,
        number: int,
        cpus: tuple[int, ...],
        held: HeldSocket,
        now: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.edge_id, self.held = settings.edge_id + number, held
        self.api = f"127.0.0.1:{free_port()}"
        self._token = token_to_read(settings)
        self._settings, self._cpus, self._now, self._env = settings, cpus, now, environment(settings)
        self._folder = None if folder is None else own_folder(folder / str(self.edge_id))
        command = self._command(self.api)
        self.service = Service(f"edge {self.edge_id}", command, self._env, None, held.spawn, restart_at_once=True)
        self._successor: OwnedChild | None = None
        self._successor_api = ""
        self._apis: dict[int, str] = {}  # of the processes that run, by process id
        self.seen: tuple[Ended, dict[int, Report]] = Ended(), {}
        self._reload_due = False
        self.health: dict[str, Any] | None = None
        self.live: dict[str, Any] | None = None
        self.ready: dict[str, Any] | None = None
        self.stats: dict[str, Any] | None = None

    def _command(self, api: str) -> list[str]:
        s = self._settings
        command = python_module("klais", "edge", "--workers", "1", "--share-port")
        command += ["--edge-id", str(self.edge_id), "--api-bind", api, "--udp-bind", s.udp_bind]
        command += ["--source", s.source, *(["--iface", s.iface] if s.iface else [])]
        command += ["--cpus", format_cpus(self._cpus)] if self._cpus else []
        command += ["--report-folder", str(self._folder)] if self._folder else []
        return command + (["--now"] if self._now else [])

    # -- replaced by a new process (klais.edge.supervisor.upgrade)

    def start_successor(self) -> None:
        """Start the next process in addition to the present one: both read the socket."""
        self._successor_api = f"127.0.0.1:{free_port()}"
        command = [*self._command(self._successor_api), "--successor"]
        self._successor = self.held.spawn(command, None, self._env, beside=True)
        self._apis[self._successor.pid] = self._successor_api

    def successor_ended(self) -> bool:
        """Whether it has exited by itself."""
        return self._successor is None or self._successor.returncode is not None

    def successor_receives(self) -> bool:
        """Whether it answers, and therefore receives."""
        try:
            client.request(f"http://{self._successor_api}/stats", ASK_S, None, self._token)
        except OSError:
            return False
        return True

    def promote_successor(self) -> None:
        """Switch to the successor; the present process drains and exits."""
        assert self._successor is not None
        self.api = self._successor_api
        self.service.replace(self._successor, self._command(self.api))
        self._successor = None

    def drop_successor(self) -> None:
        """Stop the successor, which has received frames and drains first; the present process continues."""
        if self._successor is not None:
            self.service.let_go(self._successor, STOP_S)
            self._successor = None

    @property
    def running(self) -> bool:
        """Whether any process of this place runs."""
        return self.service.running or not self.successor_ended()

    def reload(self) -> None:
        """Have the process read its settings again: now, or once it answers, because before that the signal may end
        it."""
        self._reload_due = True
        self.pass_reload()

    def pass_reload(self) -> None:
        """Send SIGHUP if it is due, and the process answers."""
        if self._reload_due and self.live is not None and self.service.pid in self.seen[1]:
            self._reload_due = False
            self.service.signal(signal.SIGHUP)

    # -- requests to its REST API

    def ask(self, path: str, body: bytes | None = None, token: str | None = None, asker: str | None = None) -> bytes:
        """Body of the process's response, whatever its status; OSError if it does not answer. ``asker``: the client on
        whose behalf the request is made.
        """
        return self._ask(self.api, path, body, token, {"X-Forwarded-For": asker} if asker else {})

    def _ask(
        self,
        api: str,
        path: str,
        body: bytes | None = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        return client.request(f"http://{api}{path}", ASK_S, body, token or self._token, headers or {})[1]

    def sample(self) -> None:
        """Ask all processes for their health, statistics and metrics, and add up those that ended."""
        reports = {pid: report for pid, api in self.add_up().items() if (report := self._report(api)) is not None}
        self.seen = self.seen[0], self.seen[1] | reports
        self._sample_health()

    def add_up(self) -> dict[int, str]:
        """Add up the processes that ended since the last call; returns those that run, with the addresses of their
        APIs."""
        running = list(self.service.pids)
        if self._successor is not None and not self.successor_ended():
            running.append(self._successor.pid)
        for pid in running:
            self._apis.setdefault(pid, self.api)
        ended, reports = self.seen
        left = self._left_reports(running)
        for pid in (self._apis.keys() | left.keys()) - set(running):
            if (last := left.get(pid) or reports.get(pid)) is not None:
                ended = ended.plus(last)
            self._apis.pop(pid, None)
        self.seen = ended, {pid: report for pid, report in reports.items() if pid in self._apis}
        return dict(self._apis)

    def _report(self, api: str) -> Report | None:
        try:
            stats, metrics = orjson.loads(self._ask(api, "/stats")), self._ask(api, "/metrics").decode()
            edge = stats["edge"]
            return {"counters": edge["counters"], "gauges": edge["gauges"], "metrics": metrics, "stats": stats}
        except (OSError, ValueError, KeyError, TypeError):  # it does not answer, or refuses: too many connections
            return None

    def _left_reports(self, running: list[int]) -> dict[int, Report]:
        """The figures that processes left when they ended, by process id; those that were killed leave none."""
        found: dict[int, Report] = {}
        for path in [] if self._folder is None else self._folder.glob("[0-9]*"):
            if (pid := int(path.name)) not in running:
                with contextlib.suppress(OSError, ValueError):
                    found[pid] = orjson.loads(path.read_bytes())
                path.unlink(missing_ok=True)
        return found

    def _sample_health(self) -> None:
        report = self.seen[1].get(self.service.pid or 0)
        try:
            live, ready, health = (orjson.loads(self.ask(path)) for path in ("/livez", "/readyz", "/health"))
            _ = live["live"], ready["ready"], health["problems"]
        except (OSError, ValueError, KeyError, TypeError):
            report = None
        if report is None:
            self.health = self.live = self.ready = None
        else:
            self.live, self.ready, self.health, self.stats = live, ready, health, report["stats"]

    @property
    def counters(self) -> dict[str, Any]:
        """Sums over all processes, those that ended included."""
        ended, reports = self.seen
        total: dict[str, Any] = ended.counters
        for report in reports.values():
            total = add(total, report["counters"])
        return total

    @property
    def gauges(self) -> list[dict[str, Any]]:
        """Of each process that runs."""
        return [report["gauges"] for report in self.seen[1].values()]

    @property
    def metrics(self) -> list[str]:
        """Of each process that runs, and the counts of those that ended."""
        ended, reports = self.seen
        return [ended.metrics, *(report["metrics"] for report in reports.values())]

    @property
    def receives(self) -> bool:
        """Whether it accepts and keeps arriving frames."""
        return self.ready is not None and bool(self.ready["ready"])

    def waits(self) -> list[str]:
        """What it waits for, as texts; empty = it keeps arriving frames."""
        if self.service.pid is None or self.ready is None:
            return [f"edge {self.edge_id} to answer"]
        return [f"edge {self.edge_id}: {text}" for text in self.ready["waiting_for"]]

    def problems(self) -> list[str]:
        """Its problems, as texts."""
        if self.service.pid is None or self.health is None:
            return [f"edge {self.edge_id}: does not answer"]
        return [f"edge {self.edge_id}: {text}" for text in self.health["problems"]]


def environment(settings: Settings) -> dict[str, str]:
    """Environment of a member: the settings, and ours without the service manager's variables for the supervisor.

    A member trusts this machine when a request names the client on whose behalf it is made, so that its log and
    records show who changed something.
    """
    manager = ("NOTIFY_", "WATCHDOG_", "LISTEN_")
    out = {n: v for n, v in child_environ(settings, reads_files=True).items() if not n.startswith(manager)}
    above = {*filter(None, out.get(GIVEN_OPTIONS, "").split(",")), "KLAIS_API_PROXIES"}
    return out | {"KLAIS_API_PROXIES": "127.0.0.1", GIVEN_OPTIONS: ",".join(sorted(above))}
