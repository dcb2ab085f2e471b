"""``klais edge --workers N``: edge processes on one port, each pinned, supervised, restarted; one REST API for all.

Each is an ordinary ``klais edge`` with its own edge id, spool and REST port (on loopback); the kernel distributes
senders over their sockets (``SO_REUSEPORT``: by addresses and ports, so one sender stays with one process). Ids start
at ``KLAIS_EDGE_ID``. The sockets belong to this process, or to systemd: while a member restarts, its socket buffers
arriving frames.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import orjson

from klais import __version__
from klais.config.load import Settings, environ_of
from klais.edge.api.models import LOOP_HUNG_S
from klais.edge.api.server import api_of
from klais.edge.listener import counted_drops, udp_sockets
from klais.edge.signals import Signals
from klais.edge.sinks.spool.folder import warn_of_spools_left_behind
from klais.edge.supervisor.merge import sum_gauges, sum_metrics
from klais.edge.supervisor.upgrade import RollingUpgrade
from klais.errors import ConfigError, EdgeUnavailable
from klais.http import client
from klais.http.access import Access, with_token
from klais.http.tokens import token_to_read
from klais.system.activation import HeldSocket, inherited_sockets
from klais.system.address import Bind, join_group, open_udp_socket
from klais.system.child import OwnedChild
from klais.system.numa import format_cpus, plan, read_topology
from klais.system.ports import free_port
from klais.system.processes import python_module
from klais.system.sd_notify import Notifier
from klais.system.supervised import Service, ServiceFailed
from klais.telemetry import log as logs
from klais.telemetry.counters import ResetSafeTotals, add

log = logs.get("klais.edge.supervisor.fleet")

SAMPLE_S = 0.5
ASK_S = 2.0
STOP_S = 12.0
TICK_S = 0.1
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Member:
    """One member of the fleet: its socket, its process, and its last report."""

    def __init__(
        self, settings: Settings, number: int, cpus: tuple[int, ...], held: HeldSocket, now: bool = False
    ) -> None:
        self.edge_id, self.held = settings.edge_id + number, held
        self.api = f"127.0.0.1:{free_port()}"
        self._token = token_to_read(settings)
        self._settings, self._cpus, self._now, self._env = settings, cpus, now, environment(settings)
        command = self._command(self.api)
        self.service = Service(f"edge {self.edge_id}", command, self._env, None, held.spawn, restart_at_once=True)
        self._successor: OwnedChild | None = None
        self._successor_api = ""
        self.counters = ResetSafeTotals()
        self.health: dict[str, Any] | None = None
        self.live: dict[str, Any] | None = None
        self.ready: dict[str, Any] | None = None
        self.stats: dict[str, Any] | None = None
        self.metrics: str | None = None

    def _command(self, api: str) -> list[str]:
        s = self._settings
        command = python_module("klais", "edge", "--workers", "1", "--share-port")
        command += ["--edge-id", str(self.edge_id), "--api-bind", api, "--udp-bind", s.udp_bind]
        command += ["--source", s.source, *(["--iface", s.iface] if s.iface else [])]
        command += ["--cpus", format_cpus(self._cpus)] if self._cpus else []
        return command + (["--now"] if self._now else [])

    # -- replaced by a new process (klais.edge.supervisor.upgrade)

    def start_successor(self) -> None:
        """Start the next process in addition to the present one: both read the socket."""
        self._successor_api = f"127.0.0.1:{free_port()}"
        command = [*self._command(self._successor_api), "--successor"]
        self._successor = self.held.spawn(command, None, self._env, beside=True)

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

    # -- requests to its REST API

    def ask(self, path: str, body: bytes | None = None, token: str | None = None, asker: str | None = None) -> bytes:
        """Body of the process's response, whatever its status; OSError if it does not answer. ``asker``: the client on
        whose behalf the request is made.
        """
        headers = {"X-Forwarded-For": asker} if asker else {}
        return client.request(f"http://{self.api}{path}", ASK_S, body, token or self._token, headers)[1]

    def sample(self) -> None:
        """Ask the process for its health, statistics and metrics."""
        pid = self.service.pid
        try:
            live, ready, health, stats = (
                orjson.loads(self.ask(path)) for path in ("/livez", "/readyz", "/health", "/stats")
            )
            metrics = self.ask("/metrics").decode()
            _, counters = (live["live"], ready["ready"], health["problems"]), stats["edge"]["counters"]
        except (OSError, ValueError, KeyError, TypeError):  # it does not answer, or refuses: too many connections
            self.health = self.live = self.ready = None
            return
        if pid is not None and pid == self.service.pid:
            self.counters.observe(counters, pid)
        self.live, self.ready, self.health, self.stats, self.metrics = live, ready, health, stats, metrics

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


def hold_sockets(settings: Settings) -> list[HeldSocket]:
    """One bound socket for each member: those passed by systemd, and new ones for the rest.

    Raises
    ------
    klais.errors.PortInUse, ConfigError
        If the port is in use, or an inherited socket does not share it.
    """
    wanted = settings.edge_workers
    fit = udp_sockets(settings, inherited_sockets())
    inherited, drops = [one.socket for one in fit], [counted_drops(settings, one) for one in fit]
    if wanted > 1 and any(not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in inherited):
        for sock in inherited:
            sock.close()
        raise ConfigError("several edge processes share the port: set ReusePort=yes in klais-edge.socket")
    for sock in inherited:
        join_group(sock, settings.iface)
    size = settings.udp_rcvbuf_bytes
    held = [HeldSocket(sock, size, counted) for sock, counted in zip(inherited, drops, strict=True)][:wanted]
    bind = Bind.parse(settings.udp_bind)
    while len(held) < wanted:
        held.append(HeldSocket(open_udp_socket(bind, True, settings.iface, size), size, 0))
        bind = Bind(bind.host, held[0].socket.getsockname()[1])  # port 0: the first selected one for all
    for spare in inherited[wanted:]:
        spare.close()
    return held


def environment(settings: Settings) -> dict[str, str]:
    """Environment of a member: the settings, and ours without the service manager's variables for the supervisor.

    A member trusts this machine when a request names the client on whose behalf it is made, so that its log and
    records show who changed something.
    """
    manager = ("KLAIS_", "NOTIFY_", "WATCHDOG_", "LISTEN_")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(manager)}
    file = {"KLAIS_ENV_FILE": str(settings.env_file)} if settings.env_file else {}
    return ours | environ_of(settings, reads_file=True) | {"KLAIS_API_PROXIES": "127.0.0.1"} | file


class Fleet:
    """The supervisor; also the state shown by its REST API (see :class:`klais.edge.api.server.State`).

    Parameters
    ----------
    settings : Settings
        ``edge_workers``, ``cpus``, ``iface``, and all that is passed to the members.
    sockets : sequence of HeldSocket
        One for each member (:func:`hold_sockets`); closed when :meth:`run` returns.
    now : bool
        Members do not wait for Kafka at the end.
    """

    def __init__(self, settings: Settings, sockets: Sequence[HeldSocket], now: bool = False) -> None:
        self._access = Access.of(settings, Bind.parse(settings.api_bind).host)
        if self._access.generated:
            why = "KLAIS_API_BIND is not loopback, no token set"
            log.warning("api_token_made", file=str(self._access.generated), why=why)
        self.settings = settings = with_token(settings, self._access)
        self.placement = plan(settings.cpus, settings.edge_workers, read_topology(settings.iface))
        places = enumerate(zip(self.placement.cpus, sockets, strict=True))
        self.members = [Member(settings, k, cpus, held, now) for k, (cpus, held) in places]
        self._token = settings.api_token.get_secret_value() if settings.api_token else None
        self._started_s = time.monotonic()
        self._stops = 0
        self._turned_s = time.monotonic()
        self._notifier = Notifier()
        self.signals = Signals(self._on_stop, self._on_stop)
        self._upgrade = RollingUpgrade(self.members)
        self._ask = ThreadPoolExecutor(len(self.members), thread_name_prefix="ask")

    def _on_stop(self) -> None:
        self._stops += 1

    def run(self) -> int:
        """Start all members, keep them running until a signal, stop them.

        Raises
        ------
        klais.errors.PortInUse
            If the port of the API is in use.
        """
        api = api_of(self.settings, self, self._access, lambda: [f"http://{m.api}" for m in self.members])
        api.start()
        edges = [member.edge_id for member in self.members]
        log.info("fleet_started", edges=edges, placement=self.placement.why, api_port=api.port)
        warn_of_spools_left_behind(self.settings, edges)
        try:
            for member in self.members:
                member.service.start()
            return int(self._watch())
        finally:
            with ExitStack() as closing:  # in reverse order, each whatever the others raise
                for member in self.members:
                    closing.callback(member.held.close)
                    closing.callback(member.service.stop, 0.0)
                closing.callback(api.stop)
                closing.callback(self._ask.shutdown, wait=False, cancel_futures=True)
                closing.callback(self._end)

    def _watch(self) -> bool:
        """Run until a signal, or a member that fails repeatedly (True)."""
        reported_ready, sampled_s = False, 0.0
        while not self._stops:
            now_s = self._turned_s = time.monotonic()
            try:
                for member in self.members:
                    if happened := member.service.poll():
                        log.warning("edge_restarted", what=happened)
            except ServiceFailed as error:
                log.error("fleet_failed", why=str(error))
                return True
            if now_s - sampled_s >= SAMPLE_S:
                sampled_s = now_s
                list(self._ask.map(Member.sample, self.members))
                if not reported_ready and all(member.receives for member in self.members):
                    reported_ready = True
                    self._notifier.ready(f"{len(self.members)} edges receive")
                elif not reported_ready:
                    waits = "; ".join(text for member in self.members for text in member.waits())
                    self._notifier.status(f"waits for {waits}", still_starting_s=30)
            if self.signals.consume_upgrade():
                self._upgrade.begin()
            self._upgrade.step(now_s)
            if self.signals.consume_reload():
                self._pass_on(signal.SIGHUP)
            self._notifier.ping_watchdog(now_s)
            time.sleep(TICK_S)
        return False

    def _pass_on(self, number: signal.Signals) -> None:
        for member in self.members:
            member.service.signal(number)

    def _end(self) -> None:
        """Send SIGTERM to all at once, and again when we get a second one; kill processes that hang in the end.

        A successor drains when the present process has released the spool, or after half of the time.
        """
        self._notifier.stopping("edges drain")
        self._pass_on(signal.SIGTERM)
        passed_on, until_s = 1, time.monotonic() + STOP_S
        while any(member.running for member in self.members) and (now_s := time.monotonic()) < until_s:
            again, passed_on = self._stops > passed_on, max(passed_on, self._stops)
            for member in self.members:
                if member.service.pid is None or now_s > until_s - STOP_S / 2:
                    member.drop_successor()
                if again:
                    member.service.signal(signal.SIGTERM, leaving=True)
            time.sleep(0.02)
        codes = {member.edge_id: member.service.returncode for member in self.members}
        log.info("fleet_stopped", exit_codes=codes)

    # -- the state shown by the API

    def live(self) -> dict[str, Any]:
        """Body of ``/livez``: the supervisor's loop turns, and the loop of every process that answers. One that does
        not answer is restarted here.
        """
        age_s = time.monotonic() - self._turned_s
        hang = [member.edge_id for member in self.members if member.live and not member.live["live"]]
        return {"live": self._stops > 0 or (age_s < LOOP_HUNG_S and not hang), "loop_age_s": round(age_s, 3)}

    def ready(self) -> dict[str, Any]:
        """Body of ``/readyz``: every process keeps frames, because each sender belongs to one of them."""
        waits = [text for member in self.members for text in member.waits()]
        if self._stops:
            waits = ["nothing: the edges are stopping"]
        return {"ready": not waits, "waiting_for": waits, "edge_id": self.settings.edge_id}

    def health(self) -> dict[str, Any]:
        """Body of ``/health``: degraded if any member is."""
        problems = [text for member in self.members for text in member.problems()]
        known = [member.health for member in self.members if member.health]
        first = known[0] if known else {}
        return {
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "warnings": [
                f"edge {m.edge_id}: {text}" for m in self.members if m.health for text in m.health["warnings"]
            ],
            "queue_depth": int(first.get("queue_depth", 0)),
            "rate_limit": float(first.get("rate_limit", self.settings.dam_max_rate)),
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self._started_s, 3),
            "edge_id": self.settings.edge_id,
            "workers": int(first.get("workers", 0)),
            "edges": len(self.members),
        }

    def stats(self) -> dict[str, Any]:
        """Body of ``/stats``: sums over the members, each member's own figures, and the system's figures."""
        known = [member for member in self.members if member.stats]
        if not known:
            raise EdgeUnavailable("no edge process has answered yet")
        total: dict[str, Any] = {}
        for member in self.members:
            total = add(total, member.counters.totals())
        edge = {
            "id": self.settings.edge_id,
            "counters": total,
            "gauges": sum_gauges(m.stats["edge"]["gauges"] for m in known if m.stats),
            "processes": {
                str(m.edge_id): {
                    "pid": m.service.pid,
                    "restarts": m.service.restarts,
                    **(m.stats["edge"] if m.stats else {}),
                }
                for m in self.members
            },
        }
        return (known[-1].stats or {}) | {"edge": edge}

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""
        return sum_metrics(m.metrics for m in self.members if m.metrics).encode(), METRICS_TYPE

    def set_rate(self, new_rate: int, client: str) -> float:
        """Let one member write the rate."""
        body = orjson.dumps({"new_rate": new_rate, "force": True})  # already validated
        problem = "no edge process answers"
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
    fleet = Fleet(settings, hold_sockets(settings), now)
    fleet.signals.install()
    return fleet.run()
