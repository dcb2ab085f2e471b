"""A rolling upgrade: each edge process is replaced by a new one that receives before the old one stops.

    new process starts, loads its kernels ──> it answers: both read the socket ──> SIGTERM: the old one drains

So there is always a process that reads the socket during an upgrade, however small the receive buffer is. The new
process has the edge id of the old one, and its own boot, so lanes can distinguish their batches. It gets the spool when
the old one has released it.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from klais.telemetry import log as logs

log = logs.get("klais.edge.supervisor.upgrade")

READY_S = 120.0  # a new process that has not answered by then is stopped


class Replaceable(Protocol):
    """The view of a fleet member that an upgrade needs."""

    edge_id: int

    def start_successor(self) -> None:
        """Start the next process in addition to the present one."""

    def successor_ended(self) -> bool:
        """Whether it has exited by itself."""

    def successor_receives(self) -> bool:
        """Whether it answers, and therefore receives."""

    def promote_successor(self) -> None:
        """Switch to the successor; the present process drains and exits."""

    def drop_successor(self) -> None:
        """Stop the successor, which drains first; the present process continues."""


class RollingUpgrade:
    """Replaces the members one after the other; the supervisor's loop calls :meth:`step`, which does not block."""

    def __init__(self, members: Sequence[Replaceable]) -> None:
        self._members = members
        self._waiting: deque[Replaceable] = deque()
        self._current: Replaceable | None = None
        self._until_s = 0.0

    @property
    def running(self) -> bool:
        """Whether members are being replaced."""
        return self._current is not None or bool(self._waiting)

    def begin(self) -> None:
        """Start to replace all members; has no effect while an upgrade is running."""
        if not self.running:
            self._waiting.extend(self._members)
            log.info("upgrade_started", edges=[member.edge_id for member in self._members])

    def step(self, now_s: float) -> None:
        """Continue the upgrade (``now_s`` monotonic). After a failure it ends, and the running processes continue."""
        member = self._current
        if member is None:
            if self._waiting:
                member = self._current = self._waiting.popleft()
                self._until_s = now_s + READY_S
                try:
                    member.start_successor()
                except OSError as error:  # no memory, no file descriptors: the fleet goes on
                    self._fail(member, f"the new process cannot be started: {error.strerror or error}")
            return
        if member.successor_receives():
            member.promote_successor()
            log.info("edge_replaced", edge=member.edge_id)
            self._current = None
            if not self._waiting:
                log.info("upgrade_completed")
        elif member.successor_ended() or now_s > self._until_s:
            self._fail(member, "the new process ended, or did not answer")

    def _fail(self, member: Replaceable, why: str) -> None:
        member.drop_successor()
        self._current = None
        self._waiting.clear()
        log.error("upgrade_failed", edge=member.edge_id, why=why, now="the old processes continue")
