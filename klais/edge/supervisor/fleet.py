"""``klais edge --workers N``: edge processes on one port, each pinned, supervised, restarted; one REST API for all.

Each is an ordinary ``klais edge`` with its own edge id, spool and REST port (on loopback); the kernel distributes
senders over their sockets (``SO_REUSEPORT``: by addresses and ports, so one sender stays with one process). Ids start
at ``KLAIS_EDGE_ID``. The sockets belong to this process, or to systemd: while a member restarts, its socket buffers
arriving frames.
"""

import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson

from klais import __version__
from klais.config.load import Settings
from klais.edge.api.models import LOOP_HUNG_S
from klais.edge.api.server import api_of
from klais.edge.listener import counted_drops, udp_sockets
from klais.edge.signals import Signals
from klais.edge.sinks.spool.folder import warn_of_spools_left_behind
from klais.edge.supervisor.member import STOP_S, Member
from klais.edge.supervisor.merge import sum_gauges, sum_metrics
from klais.edge.supervisor.upgrade import RollingUpgrade
from klais.errors import ConfigError, EdgeUnavailable
from klais.http.access import Access, with_token
from klais.system.activation import HeldSocket, inherited_sockets
from klais.system.address import Bind, join_group, open_udp_socket
from klais.system.numa import plan, read_topology
from klais.system.sd_notify import Notifier
from klais.system.supervised import ServiceFailed
from klais.telemetry import log as logs
from klais.telemetry.counters import add

log = logs.get("klais.edge.supervisor.fleet")

SAMPLE_S = 0.5
TICK_S = 0.1
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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
    reports : Path, optional
        Where processes leave their last figures.
    """

    def __init__(
        self, settings: Settings, sockets: Sequence[HeldSocket], now: bool = False, reports: Path | None = None
    ) -> None:
        self._access = Access.of(settings, Bind.parse(settings.api_bind).host)
        if self._access.generated:
            why = "KLAIS_API_BIND is not loopback, no token set"
            log.warning("api_token_made", file=str(self._access.generated), why=why)
        self.settings = settings = with_token(settings, self._access)
        self.placement = plan(settings.cpus, settings.edge_workers, read_topology(settings.iface))
        places = enumerate(zip(self.placement.cpus, sockets, strict=True))
        self.members = [Member(settings, k, cpus, held, now, reports) for k, (cpus, held) in places]
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
            reload = self.signals.consume_reload()
            for member in self.members:
                member.reload() if reload else member.pass_reload()
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
        for member in self.members:
            member.add_up()
        log.info("fleet_stopped", exit_codes=codes, **self._counters())

    def _counters(self) -> dict[str, Any]:
        total: dict[str, Any] = {}
        for member in self.members:
            total = add(total, member.counters)
        return total

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
        edge = {
            "id": self.settings.edge_id,
            "counters": self._counters(),
            "gauges": sum_gauges([{"queue_depth": 0}, *(gauges for m in self.members for gauges in m.gauges)]),
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
        return sum_metrics(text for m in self.members for text in m.metrics).encode(), METRICS_TYPE

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


@contextmanager
def _report_folder() -> Iterator[Path | None]:
    """A folder of this user for the last figures of processes; without one, those since the last sample are missing."""
    with ExitStack() as stack:
        folder = None
        try:
            made = tempfile.TemporaryDirectory(prefix="klais-fleet-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        except OSError as error:
            means = "the sums miss what a process counts just before it ends"
            log.warning("no_report_folder", why=str(error), means=means)
        yield folder


def main(settings: Settings, now: bool = False) -> int:
    """Run the fleet in this process until SIGTERM or SIGINT; returns the exit code."""
    with _report_folder() as reports:
        fleet = Fleet(settings, hold_sockets(settings), now, reports)
        fleet.signals.install()
        return fleet.run()
