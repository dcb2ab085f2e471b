"""CPU shares of this process and this machine since the last sample, relative to their limits."""

import time
from pathlib import Path

from klais.system.cgroup import CpuGroup, limiting_group


class CpuShare:
    """CPU shares since the last sample: of one core by this process, of all cores by all processes.

    In a control group with a quota (a container's CPU limit) 1 means the whole quota: a process that uses all of its
    quota of a fifth of a core is as busy as it can be. A sample within 0.2 s of the last one repeats it, because the
    kernel counts CPU time in steps of 10 ms. ``root`` contains ``/proc`` and ``/sys``.
    """

    MIN_S = 0.2

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._at_s, self._own_s = time.monotonic(), time.process_time()
        self._host, self._group = _host_ticks(root), limiting_group(root)
        self._last = {"cpu_share": 0.0, "host_cpu_share": 0.0}

    def sample(self) -> dict[str, float]:
        """For the gauges: ``cpu_share`` (1 = one core kept busy, or the quota used up where that is less) and
        ``host_cpu_share`` (1 = every core busy, or the quota used up by all in the group)."""
        now_s = time.monotonic()
        if now_s - self._at_s < self.MIN_S:
            return self._last
        own_s, host, group = time.process_time(), _host_ticks(self._root), limiting_group(self._root)
        elapsed_s = now_s - self._at_s
        total = host[0] - self._host[0]
        busy = host[1] - self._host[1]
        self._last = {
            "cpu_share": round((own_s - self._own_s) / elapsed_s / min(1.0, group.quota if group else 1.0), 4),
            "host_cpu_share": round(max(busy / total if total > 0 else 0.0, self._group_share(group, elapsed_s)), 4),
        }
        self._at_s, self._own_s, self._host, self._group = now_s, own_s, host, group
        return self._last

    def _group_share(self, group: CpuGroup | None, elapsed_s: float) -> float:
        """Share of its quota that the whole group used, 0 to 1; 0 if unknown."""
        before = self._group
        if group is None or before is None or group.used_s is None or before.used_s is None:
            return 0.0
        return min(1.0, max(0.0, (group.used_s - before.used_s) / elapsed_s / group.quota))


def _host_ticks(root: Path) -> tuple[int, int]:
    """All and busy clock ticks of all CPUs since boot (proc_stat(5)); zeros if there is no /proc."""
    try:
        with (root / "proc/stat").open() as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    total = sum(ticks)
    return total, total - ticks[3] - ticks[4]  # idle, iowait
