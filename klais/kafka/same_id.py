"""Two processes with one id, recognised by the random number in their records on ``klais_stats``."""

from klais.kafka.stats import StatsFollower
from klais.telemetry import log as logs

log = logs.get("klais.kafka.same_id")

SAME_ID_S = 10.0  # a process being replaced and its successor may both report for this long
FORGET_OTHER_S = 5.0
_SHARED = {"edge": "edge_id_shared", "worker": "worker_id_shared"}
_DO = {
    "edge": "give each edge its own KLAIS_EDGE_ID, or KLAIS_EDGE_NAME if edges claim their numbers",
    "worker": "give each worker its own KLAIS_WORKER_ID (the default is host name and process id: containers on the "
    "host's network share both)",
}


class SameIdCheck:
    """Whether another process reports under the same id: each would then count the other's share and statistics.

    Parameters
    ----------
    system : StatsFollower
        Receives the records of all processes.
    name, instance : str
        This process on ``klais_stats``, and the random number that distinguishes it from others with that name.
    kind : str
        "edge" or "worker".
    """

    def __init__(self, system: StatsFollower, name: str, instance: str, kind: str = "edge") -> None:
        self._system, self._name, self._instance, self._kind = system, name, instance, kind
        self._first_s: float | None = None
        self._last_s = float("-inf")
        self._where = self._logged = ""

    def on_tick(self, now_s: float) -> None:
        """Check which processes report under this one's name (``now_s`` monotonic); log when that changes."""
        self._check_newest(now_s)
        problem = self.problem()
        if problem and not self._logged:
            log.error(_SHARED[self._kind], why=problem)
        elif self._logged and not problem:
            log.info(f"{_SHARED[self._kind]}_resolved", was=self._logged)
        self._logged = problem

    def _check_newest(self, now_s: float) -> None:
        record = self._system.newest(self._kind).get(self._name)
        if record is None or "instance" not in record or record["instance"] == self._instance:
            if now_s - self._last_s > FORGET_OTHER_S:
                self._first_s = None
            return
        self._first_s = now_s if self._first_s is None else self._first_s
        self._last_s, self._where = now_s, str(record.get("host", "another host")).partition(":")[0]

    def problem(self) -> str:
        """The problem as text; empty if there is none."""
        if self._first_s is None or self._last_s - self._first_s < SAME_ID_S:
            return ""
        return f"another {self._kind} on {self._where} also reports as {self._name}: {_DO[self._kind]}"
