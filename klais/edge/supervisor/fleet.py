"""``klais edge --workers N``: edge processes on one port, each pinned, watched, started again; one REST API over all.

Each is an ordinary ``klais edge`` with an edge id, a spool and a REST port (on loopback) of its own; the kernel spreads
senders over their sockets (``SO_REUSEPORT``: by addresses and ports, so one sender stays with one process as long as the
number of sockets stays). Ids go from ``KLAIS_EDGE_ID`` on.
"""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from klais import __version__
from klais.config.load import Settings, environ_of
from klais.edge.api.server import api_of
from klais.edge.signals import Signals
from klais.edge.supervisor.merge import Lives, add, sum_gauges, sum_metrics
from klais.errors import EdgeUnavailable
from klais.http import client
from klais.http.access import Access, token_to_read, with_token
from klais.system.address import Bind, open_udp_socket
from klais.system.numa import format_cpus, plan, read_topology
from klais.system.ports import free_port
from klais.system.sd_notify import Notifier
from klais.system.supervised import Service, ServiceFailed
from klais.telemetry import log as logs

log = logs.get("klais.edge.supervisor.fleet")

LOOK_S = 0.5
ASK_S = 2.0
STOP_S = 12.0
TICK_S = 0.1
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Member:
    """One place in the fleet: its process, and what that last said."""

    def __init__(self, settings: Settings, number: int, cpus: tuple[int, ...], now: bool) -> None:
        self.edge_id = settings.edge_id + number
        self.api = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "klais", "edge", "--workers", "1", "--share-port"]
        command += ["--edge-id", str(self.edge_id), "--api-bind", self.api, "--udp-bind", settings.udp_bind]
        command += ["--source", settings.source, *(["--iface", settings.iface] if settings.iface else [])]
        command += ["--cpus", format_cpus(cpus)] if cpus else []
        command += ["--now"] if now else []
        self._token = token_to_read(settings)
        self.service = Service(f"edge {self.edge_id}", command, environment(settings), None)
        self.lives = Lives()
        self.health: dict[str, Any] | None = None
        self.stats: dict[str, Any] | None = None
        self.metrics: str | None = None

    def ask(self, path: str, body: bytes | None = None, token: str | None = None, asker: str | None = None) -> bytes:
        """Body of the process's answer, whatever its status; OSError when it does not answer. ``asker``: on whose behalf."""
        headers = {"X-Forwarded-For": asker} if asker else {}
        return client.request(f"http://{self.api}{path}", ASK_S, body, token or self._token, headers)[1]

    def look(self) -> None:
        """Ask the process how it is."""
        pid = self.service.pid
        try:
            health, stats = orjson.loads(self.ask("/health")), orjson.loads(self.ask("/stats"))
            metrics = self.ask("/metrics").decode()
        except (OSError, ValueError):
            self.health = None
            return
        if pid is not None and pid == self.service.pid:
            self.lives.see(pid, stats["edge"]["counters"])
        self.health, self.stats, self.metrics = health, stats, metrics

    @property
    def receives(self) -> bool:
        """Whether it takes frames."""
        return self.health is not None and bool(self.health["status"] == "ok")

    def problems(self) -> list[str]:
        """What is wrong with it, in words."""
        if self.service.pid is None or self.health is None:
            return [f"edge {self.edge_id}: does not answer"]
        return [f"edge {self.edge_id}: {text}" for text in self.health["problems"]]


def environment(settings: Settings) -> dict[str, str]:
    """Environment of a member: the settings, and ours without what is the supervisor's business.

    A member believes this machine when it says on whose behalf it asks: so its log and records name who changed something.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("KLAIS_", "NOTIFY_", "WATCHDOG_"))}
    file = {"KLAIS_ENV_FILE": str(settings.env_file)} if settings.env_file else {}
    return ours | environ_of(settings) | {"KLAIS_API_PROXIES": "127.0.0.1"} | file


class Fleet:
    """The supervisor; also what its REST API shows (see :class:`klais.edge.api.server.State`).

    Parameters
    ----------
    settings : Settings
        ``edge_workers``, ``cpus``, ``iface``, and all that the members are given.
    now : bool
        Members do not wait for Kafka at the end.
    """

    def __init__(self, settings: Settings, now: bool = False) -> None:
        self._access = Access.of(settings, Bind.parse(settings.api_bind).host)
        if self._access.generated:
            log.warning("api_token_made", file=str(self._access.generated), why="KLAIS_API_BIND is not loopback, no token set")
        self.settings = settings = with_token(settings, self._access)
        self.placement = plan(settings.cpus, settings.edge_workers, read_topology(settings.iface))
        self.members = [Member(settings, k, cpus, now) for k, cpus in enumerate(self.placement.cpus)]
        self._token = settings.api_token.get_secret_value() if settings.api_token else None
        self._started_s = time.monotonic()
        self._asked = 0
        self._notifier = Notifier()
        self.signals = Signals(self._on_stop, self._on_stop)
        self._ask = ThreadPoolExecutor(len(self.members), thread_name_prefix="ask")

    def _on_stop(self) -> None:
        self._asked += 1

    def run(self) -> int:
        """Start all, keep them running until a signal, end them.

        Raises
        ------
        klais.errors.PortInUse
            UDP or API port taken.
        """
        s = self.settings
        open_udp_socket(Bind.parse(s.udp_bind), True).close()
        api = api_of(s, self, self._access)
        api.start()
        log.info("fleet_starts", edges=[m.edge_id for m in self.members], placement=self.placement.why, api_port=api.port)
        self._name_orphans()
        try:
            for member in self.members:
                member.service.start()
            failed = self._watch()
            self._end()
        finally:
            self._ask.shutdown(wait=False, cancel_futures=True)
            api.stop()
            for member in self.members:
                member.service.stop(0.0)
        return 1 if failed else 0

    def _watch(self) -> bool:
        """Until a signal, or a member that fails again and again (True)."""
        told, looked_s = False, 0.0
        while not self._asked:
            now_s = time.monotonic()
            try:
                for member in self.members:
                    if happened := member.service.poll():
                        log.warning("edge_restarts", what=happened)
            except ServiceFailed as error:
                log.error("fleet_fails", why=str(error))
                return True
            if now_s - looked_s >= LOOK_S:
                looked_s = now_s
                list(self._ask.map(Member.look, self.members))
                if not told and all(member.receives for member in self.members):
                    told = True
                    self._notifier.ready(f"{len(self.members)} edges receive")
                elif not told:
                    self._notifier.status("; ".join(text for m in self.members for text in m.problems()), still_starting_s=30)
            if self.signals.reload:
                self.signals.reload = False
                self._pass_on(signal.SIGHUP)
            self._notifier.beat(now_s)
            time.sleep(TICK_S)
        return False

    def _pass_on(self, number: signal.Signals) -> None:
        for member in self.members:
            member.service.signal(number)

    def _end(self) -> None:
        """SIGTERM to all at once, a second one when we get one; what hangs is killed in the end."""
        self._notifier.stopping("edges drain")
        self._pass_on(signal.SIGTERM)
        passed_on, until_s = 1, time.monotonic() + STOP_S
        while any(member.service.pid for member in self.members) and time.monotonic() < until_s:
            if self._asked > passed_on:
                passed_on = self._asked
                self._pass_on(signal.SIGTERM)
            time.sleep(0.02)
        codes = {member.edge_id: member.service.returncode for member in self.members}
        log.info("fleet_stopped", exit_codes=codes)

    def _name_orphans(self) -> None:
        """Spools of edges that are not in the fleet any more: nobody would deliver them."""
        folder = self.settings.spool_dir or self.settings.state_dir
        mine = {f"spool-{member.edge_id}" for member in self.members}
        spools = [path for path in sorted(Path(folder).glob("spool-*")) if path.name not in mine]
        left = [path.name for path in spools if any(path.glob("*.spool"))]
        if left:
            log.warning("spools_left_behind", folder=str(folder), spools=left, do="start an edge with each of these ids once")

    # -- what the API shows

    def health(self) -> dict[str, Any]:
        """Body of ``/health``: degraded when any member is."""
        problems = [text for member in self.members for text in member.problems()]
        known = [member.health for member in self.members if member.health]
        first = known[0] if known else {}
        return {
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "warnings": [f"edge {m.edge_id}: {text}" for m in self.members if m.health for text in m.health["warnings"]],
            "queue_depth": int(first.get("queue_depth", 0)),
            "rate_limit": float(first.get("rate_limit", self.settings.dam_max_rate)),
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self._started_s, 3),
            "edge_id": self.settings.edge_id,
            "workers": int(first.get("workers", 0)),
            "edges": len(self.members),
        }

    def stats(self) -> dict[str, Any]:
        """Body of ``/stats``: sums over the members, each member's own, and the system's figures."""
        known = [member for member in self.members if member.stats]
        if not known:
            raise EdgeUnavailable("no edge process has answered yet")
        total: dict[str, Any] = {}
        for member in self.members:
            total = add(total, member.lives.counters())
        edge = {
            "id": self.settings.edge_id,
            "counters": total,
            "gauges": sum_gauges(m.stats["edge"]["gauges"] for m in known if m.stats),
            "processes": {
                str(m.edge_id): {"pid": m.service.pid, "restarts": m.service.restarts, **(m.stats["edge"] if m.stats else {})}
                for m in self.members
            },
        }
        return (known[-1].stats or {}) | {"edge": edge}

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""
        return sum_metrics(m.metrics for m in self.members if m.metrics).encode(), METRICS_TYPE

    def set_rate(self, new_rate: int, client: str) -> float:
        """Let one member write the rate."""
        body, problem = orjson.dumps({"new_rate": new_rate, "force": True}), "no edge process answers"  # it is checked already
        for member in self.members:
            try:
                answer = orjson.loads(member.ask("/config", body, self._token, client))
            except (OSError, ValueError) as error:
                problem = str(error)
                continue
            if answer.get("success"):
                return float(answer["previous_rate"])
            problem = str(answer.get("error"))
        raise EdgeUnavailable(problem)


def main(settings: Settings, now: bool = False) -> int:
    """Run the fleet in this process until SIGTERM or SIGINT; returns the exit code."""
    fleet = Fleet(settings, now)
    fleet.signals.install()
    return fleet.run()
