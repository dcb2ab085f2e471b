"""Child processes that always end, with their CPU time, memory, log and environment."""

import json
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.harness.waiting import BenchFailed
from klais.config.load import Settings

REPO = Path(__file__).parents[2]
# Settings of a run that benchmarks pass on: access to a cluster, and the folder of compiled kernels.
_PASSED_ON = ("KLAIS_KAFKA_", "KLAIS_CACHE_DIR", "KLAIS_JIT", "KLAIS_REPLICATION")


class Child:
    """A child process with its log; ``cpu_s`` counts all of its threads (and the children it waited for)."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.name, self.log, self.started_s = name, log, time.monotonic()
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                command,
                cwd=REPO,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if name == "simulate" else out,
                stderr=out,
            )
        self._process = psutil.Process(self._popen.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    def check(self) -> None:
        """Raise BenchFailed if it has ended."""
        if self._popen.poll() is not None:
            raise BenchFailed(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")

    def cpu_s(self) -> float:
        """CPU time so far, user and system."""
        self.check()
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        """Resident memory now, MB of 10^6 bytes."""
        self.check()
        return float(self._process.memory_info().rss) / 1e6

    def peak_rss_mb(self) -> float:
        """Highest resident memory so far."""
        self.check()
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0

    def tail(self, lines: int = 20) -> str:
        """End of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait(30)

    def stop(self, timeout_s: float = 20.0) -> None:
        """Send SIGTERM, then SIGKILL if the process does not exit."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._popen.stdout is not None:
            self._popen.stdout.close()  # of a sender whose summary was not read

    def summary(self, timeout_s: float) -> dict[str, Any]:
        """Wait for its end; return the JSON object on the last line of its standard output (``simulate`` only)."""
        try:
            out, _ = self._popen.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{self.name} did not end within {timeout_s:g} s") from None
        if self._popen.returncode != 0:
            raise BenchFailed(f"{self.name} ended with {self._popen.returncode}:\n{self.tail()}")
        summary: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
        return summary


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a child: ours, plus the non-default settings as KLAIS_ variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("KLAIS_") or k.startswith(_PASSED_ON)}
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if value is not None and not hasattr(value, "get_secret_value"):
            env[f"KLAIS_{name.upper()}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return env


def children_cpu_s() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
