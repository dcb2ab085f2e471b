"""How busy this process and this machine were since the last look."""

import socket
import time

from klais.config import Settings


def host_of(settings: Settings) -> str:
    """Name of the machine and the folder of its pinned maps: whose filter it is that a process and its neighbours share."""
    return f"{socket.gethostname()}:{settings.xdp_pin_dir}"


class CpuShare:
    """Shares over the time since the last look: of one core by this process, of all cores by everything here.

    Looks closer together than 0.2 s give the last answer again: the kernel counts CPU in steps of 10 ms.
    """

    LEAST_S = 0.2

    def __init__(self) -> None:
        self._at_s, self._own_s = time.monotonic(), time.process_time()
        self._host = _host_ticks()
        self._last = {"cpu_share": 0.0, "host_cpu_share": 0.0}

    def look(self) -> dict[str, float]:
        """``cpu_share`` (1 = one core kept busy) and ``host_cpu_share`` (1 = every core busy), for the gauges."""
        now_s = time.monotonic()
        if now_s - self._at_s < self.LEAST_S:
            return self._last
        own_s, host = time.process_time(), _host_ticks()
        total = host[0] - self._host[0]
        busy = host[1] - self._host[1]
        self._last = {
            "cpu_share": round((own_s - self._own_s) / (now_s - self._at_s), 4),
            "host_cpu_share": round(busy / total, 4) if total > 0 else 0.0,
        }
        self._at_s, self._own_s, self._host = now_s, own_s, host
        return self._last


def _host_ticks() -> tuple[int, int]:
    """All and busy clock ticks of all CPUs since boot (proc_stat(5)); zeros where there is no /proc."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    total = sum(ticks)
    return total, total - ticks[3] - ticks[4]  # idle, iowait
