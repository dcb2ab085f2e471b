"""Choose CPUs for edge processes: near the network card, within the limits of the system. Reads sysfs, pins with
affinity.

A plan has the CPUs of each process and the reason as text. ``auto`` prefers CPUs of the interface's NUMA node
(``/sys/class/net/<iface>/device/numa_node``), one hardware thread of each core before the second ones, and only CPUs
that are online and in the cgroup's cpuset; with more processes than CPUs they are shared in turn. See
``Documentation/ABI/stable/sysfs-devices-node`` and ``admin-guide/cgroup-v2`` of the kernel.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from klais.errors import ConfigError
from klais.system.cgroup import MOUNT, limiting_group, path_of, text_of

AUTO = "auto"
MAX_CPU = 1 << 16


def parse_cpus(text: str) -> list[int]:
    """CPUs of a list in the kernel's notation, sorted.

    Raises
    ------
    ValueError
        If it is not such a list.

    Examples
    --------
    >>> parse_cpus("0-2,8\\n"), parse_cpus("")
    ([0, 1, 2, 8], [])
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= MAX_CPU):
            raise ValueError(f"{part!r} is neither a CPU nor a range of CPUs from 0 to {MAX_CPU}, such as 0-3")
        low, high = int(first), int(last)
        found.update(range(low, high + 1))
    return sorted(found)


def format_cpus(cpus: Iterable[int]) -> str:
    """The list in the kernel's notation; the inverse of :func:`parse_cpus`.

    Examples
    --------
    >>> format_cpus([8, 0, 1, 2])
    '0-2,8'
    """
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


@dataclass(frozen=True, slots=True)
class Topology:
    """CPUs and NUMA nodes of a machine.

    ``nodes``: CPUs of each NUMA node; ``core`` of a CPU: the lowest CPU of its physical core; ``allowed``: online and
    granted to this process; ``iface_node``: NUMA node of the interface, None if it has none or there is no interface;
    ``limits``: why CPUs are missing, as texts; ``quota``: CPUs' worth of time that the cgroup grants, None = all.
    """

    nodes: dict[int, tuple[int, ...]]
    core: dict[int, int]
    allowed: tuple[int, ...]
    iface_node: int | None
    limits: tuple[str, ...]
    quota: float | None = None

    def node_of(self, cpu: int) -> int | None:
        """NUMA node of a CPU."""
        return next((node for node, cpus in self.nodes.items() if cpu in cpus), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """One entry per process: its CPUs, none = not pinned; ``why`` as text."""

    cpus: tuple[tuple[int, ...], ...]
    why: str


def read_topology(iface: str | None = None, root: Path = Path("/"), affinity: Iterable[int] | None = None) -> Topology:
    """Read the topology of a machine; missing files (as in containers) are skipped.

    Parameters
    ----------
    iface : str, optional
        Network interface.
    root : Path
        Folder that contains ``sys`` and ``proc``; for tests.
    affinity : iterable of int, optional
        CPUs this process may use; None = ask the kernel.
    """
    cpu_dir = root / "sys/devices/system/cpu"
    mine = sorted(os.sched_getaffinity(0) if affinity is None else affinity)
    online = _cpus(cpu_dir / "online") or mine
    allowed, limits = [cpu for cpu in mine if cpu in online], []
    if gone := [cpu for cpu in mine if cpu not in online]:
        limits.append(f"CPUs {format_cpus(gone)} are offline")
    granted, quota = _cgroup(root)
    if granted and (taken := [cpu for cpu in allowed if cpu not in granted]):
        allowed = [cpu for cpu in allowed if cpu in granted]
        limits.append(f"the cgroup's cpuset excludes CPUs {format_cpus(taken)}")
    if quota is not None:
        limits.append(f"the cgroup grants {quota:g} CPUs' worth of time")
    nodes = {}
    for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*")):
        if cpus := _cpus(path / "cpulist"):
            nodes[int(path.name.removeprefix("node"))] = tuple(cpus)
    core = {cpu: (_cpus(cpu_dir / f"cpu{cpu}/topology/thread_siblings_list") or [cpu])[0] for cpu in allowed}
    node = _number(root / f"sys/class/net/{iface}/device/numa_node") if iface else None
    return Topology(
        nodes or {0: tuple(online)}, core, tuple(allowed), node if node in nodes else None, tuple(limits), quota
    )


def _cgroup(root: Path) -> tuple[list[int], float | None]:
    """CPUs that our cgroup may use (empty = no known limit) and its quota in CPUs: the smallest of our group and its
    ancestors."""
    limit = limiting_group(root)
    return _cpus(root / MOUNT / path_of(root, "") / "cpuset.cpus.effective"), limit.quota if limit else None


def plan(wanted: str | None, workers: int, topology: Topology) -> Plan:
    """Assign CPUs to each of ``workers`` processes.

    Parameters
    ----------
    wanted : str, optional
        ``auto``, a list of CPUs (assigned in ascending order), or None: no pinning.
    workers : int
        Number of processes.

    Raises
    ------
    klais.errors.ConfigError
        If the list contains CPUs that this process may not use; the message names them, and the reason if known.
    """
    if wanted is None:
        return Plan(((),) * workers, "not pinned (KLAIS_CPUS is not set)")
    limits = f" ({'; '.join(topology.limits)})" if topology.limits else ""
    if wanted != AUTO:
        cpus = _listed(wanted, topology, limits)
        why = f"CPUs {format_cpus(cpus)} from KLAIS_CPUS"
    else:
        cpus = _near(topology)
        why = f"CPUs {format_cpus(cpus[:workers])} of {format_cpus(topology.allowed)}"
        if topology.iface_node is not None:
            why += f", those of NUMA node {topology.iface_node} first, where the interface is"
        elif len(topology.nodes) > 1:
            why += f", NUMA node {topology.node_of(cpus[0])} first: the interface's node is not known"
    if workers > len(cpus):
        why += f"; {workers} processes share {len(cpus)} CPUs"
    return Plan(tuple((cpus[k % len(cpus)],) for k in range(workers)), why + limits)


def _listed(wanted: str, topology: Topology, limits: str) -> list[int]:
    try:
        cpus = parse_cpus(wanted)
    except ValueError as error:
        raise ConfigError(f"KLAIS_CPUS={wanted}: {error}") from None
    if missing := [cpu for cpu in cpus if cpu not in topology.allowed]:
        raise ConfigError(
            f"KLAIS_CPUS={wanted}: CPUs {format_cpus(missing)} are not available; available are "
            f"{format_cpus(topology.allowed)}{limits}"
        )
    if not cpus:
        raise ConfigError(f"KLAIS_CPUS={wanted}: names no CPU")
    return cpus


def _near(topology: Topology) -> list[int]:
    """All usable CPUs, best first: the interface's node before others; first threads of cores before second
    ones."""
    seen: set[int] = set()
    second = {}
    for cpu in topology.allowed:
        second[cpu] = topology.core.get(cpu, cpu) in seen
        seen.add(topology.core.get(cpu, cpu))

    def key(cpu: int) -> tuple[bool, int, bool, int]:
        node = topology.node_of(cpu)
        far = topology.iface_node is not None and node != topology.iface_node
        return far, node if node is not None else 1 << 16, second[cpu], cpu

    return sorted(topology.allowed, key=key)


def pin(cpus: Iterable[int]) -> str:
    """Pin this process, and threads it starts from now on, to ``cpus``; returns the result as text."""
    wanted = set(cpus)
    if not wanted:
        return "not pinned"
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as error:
        return f"not pinned: the kernel refuses CPUs {format_cpus(wanted)}: {error.strerror}"
    return f"pinned to CPUs {format_cpus(wanted)}"


def _cpus(path: Path) -> list[int]:
    try:
        return parse_cpus(text_of(path))
    except ValueError:
        return []


def _number(path: Path) -> int | None:
    text = text_of(path)
    return int(text) if text.lstrip("-").isdigit() and int(text) >= 0 else None
