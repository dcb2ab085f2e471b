"""CPU quota and usage of this process's control group (cgroups(7)); in a container the machine's own figures mislead.

Version 2: ``cpu.max`` and ``cpu.stat`` of the group and its ancestors. Version 1: ``cpu.cfs_quota_us`` and its period,
and ``cpuacct.usage``, whose hierarchies may be mounted separately. Inside a container the path in ``/proc/self/cgroup``
may be the host's: then the folder at the mount point is the group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT = "sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class CpuGroup:
    """The group with the smallest quota: ``quota`` in CPUs, ``used_s`` CPU time of all its processes so far, None =
    unknown."""

    quota: float
    used_s: float | None


def limiting_group(root: Path = Path("/")) -> CpuGroup | None:
    """The group with the smallest quota among this process's group and its ancestors; None if there is no quota.

    ``root`` contains ``/proc`` and ``/sys`` (tests create their own).
    """
    found = [group for group in (*_version_2(root), *_version_1(root)) if group.quota > 0.0]
    return min(found, key=lambda group: group.quota, default=None)


def _version_2(root: Path) -> Iterator[CpuGroup]:
    for folder in _upwards(root / MOUNT, path_of(root, "")):
        share, _, period = text_of(folder / "cpu.max").partition(" ")
        if share.isdigit() and period.strip().isdigit():
            stat = dict(line.split(" ", 1) for line in text_of(folder / "cpu.stat").splitlines() if " " in line)
            used = stat.get("usage_usec", "")
            yield CpuGroup(int(share) / int(period), int(used) / 1e6 if used.isdigit() else None)


def _version_1(root: Path) -> Iterator[CpuGroup]:
    base, accounts = _mounted(root, "cpu"), _mounted(root, "cpuacct")
    for folder in _upwards(base, path_of(root, "cpu")):
        quota, period = text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # no limit is -1
            used = text_of(accounts / folder.relative_to(base) / "cpuacct.usage")
            yield CpuGroup(int(quota) / int(period), int(used) / 1e9 if used.isdigit() else None)


def _mounted(root: Path, controller: str) -> Path:
    together = root / MOUNT / "cpu,cpuacct"
    return together if together.is_dir() else root / MOUNT / controller


def path_of(root: Path, controller: str) -> str:
    """Path of the group below the mount point, from the line ``number:controllers:path``; version 2 has no
    controllers ('')."""
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            return path.lstrip("/")
    return ""


def _upwards(base: Path, path: str) -> Iterator[Path]:
    folder = base / path
    if not folder.is_dir():
        folder = base
    yield folder
    while folder != base and base in folder.parents:
        folder = folder.parent
        yield folder


def text_of(path: Path) -> str:
    """Content of a kernel file without surrounding white space; empty if it does not exist."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
