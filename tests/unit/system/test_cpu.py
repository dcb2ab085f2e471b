"""CPU shares by what a control group grants, on faked machines of both versions and on this one."""

import time
from pathlib import Path

import pytest

from klais.system.cgroup import CpuGroup, limiting_group
from klais.system.cpu import CpuShare


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V2 = {
    "proc/self/cgroup": "0::/box/inner",
    "sys/fs/cgroup/box/cpu.max": "150000 100000",
    "sys/fs/cgroup/box/cpu.stat": "usage_usec 7000000\nuser_usec 1",
    "sys/fs/cgroup/box/inner/cpu.max": "max 100000",
}
V1 = {
    "proc/self/cgroup": "4:cpuset:/\n3:cpuacct:/box\n2:cpu:/box\n0::/",
    "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "2500",
    "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "10000",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    "sys/fs/cgroup/cpuacct/box/cpuacct.usage": "3000000000",
}


def test_version_2_takes_the_least_quota_on_the_way_up(tmp_path: Path) -> None:
    root = write(tmp_path, V2)
    assert limiting_group(root) == CpuGroup(1.5, 7.0)
    write(root, {"sys/fs/cgroup/box/inner/cpu.max": "20000 100000"})
    assert limiting_group(root) == CpuGroup(0.2, None)


def test_version_1_with_its_controllers_apart_or_together(tmp_path: Path) -> None:
    assert limiting_group(write(tmp_path / "apart", V1)) == CpuGroup(0.25, 3.0)
    together = {name.replace("/cpuacct/", "/cpu/").replace("/cpu/", "/cpu,cpuacct/"): text for name, text in V1.items()}
    together["proc/self/cgroup"] = "2:cpu,cpuacct:/box\n0::/"
    assert limiting_group(write(tmp_path / "together", together)) == CpuGroup(0.25, 3.0)


def test_in_a_container_the_mount_point_is_ours_when_the_path_is_the_hosts(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/machine/far/away", "sys/fs/cgroup/cpu.max": "50000 100000"}
    assert limiting_group(write(tmp_path, files)) == CpuGroup(0.5, None)


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert limiting_group(tmp_path) is None
    files = {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "max 100000", "proc/stat": "cpu 1 0 1 5"}
    assert limiting_group(write(tmp_path, files)) is None


def busy_share(root: Path, monkeypatch: pytest.MonkeyPatch, used: float, after_s: float = 1.0) -> dict[str, float]:
    """Shares after a second in which this process used ``used`` CPU seconds."""
    clock = {"now": 100.0, "own": 5.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(time, "process_time", lambda: clock["own"])
    cpu = CpuShare(root)
    clock["now"] += after_s
    clock["own"] += used
    if (root / "sys/fs/cgroup/cpuacct/box/cpuacct.usage").exists():
        write(root, {"sys/fs/cgroup/cpuacct/box/cpuacct.usage": str(3_000_000_000 + int(2 * used * 1e9))})
    return cpu.sample()


def test_a_process_that_uses_up_its_quota_is_as_busy_as_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert busy_share(write(tmp_path, V1), monkeypatch, 0.2) == {"cpu_share": 0.8, "host_cpu_share": 1.0}


def test_a_quota_of_more_than_a_core_does_not_make_one_thread_less_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert busy_share(write(tmp_path, V2), monkeypatch, 0.9)["cpu_share"] == 0.9


def test_without_a_quota_it_is_the_share_of_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert busy_share(tmp_path, monkeypatch, 0.25) == {"cpu_share": 0.25, "host_cpu_share": 0.0}
