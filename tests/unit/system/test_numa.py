"""Placement on faked machines: one node, two nodes, hardware threads, offline CPUs, container limits."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.errors import ConfigError
from klais.system.numa import Topology, format_cpus, parse_cpus, pin, plan, read_topology


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Builds the files of a machine: ``nodes`` CPU lists by node; ``siblings`` lists of one core's threads."""

    def make(
        nodes: dict[int, str], online: str, siblings: tuple[str, ...] = (), iface_node: int | None = None,
        cpuset: str | None = None, cpu_max: str | None = None,
    ) -> Path:  # fmt: skip
        def write(path: str, text: str) -> None:
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

        write("sys/devices/system/cpu/online", online)
        for node, cpus in nodes.items():
            write(f"sys/devices/system/node/node{node}/cpulist", cpus)
        for group in siblings:
            for cpu in parse_cpus(group):
                write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", group)
        if iface_node is not None:
            write("sys/class/net/eth0/device/numa_node", str(iface_node))
        write("proc/self/cgroup", "0::/box/inner")
        if cpuset is not None:
            write("sys/fs/cgroup/box/inner/cpuset.cpus.effective", cpuset)
        if cpu_max is not None:
            write("sys/fs/cgroup/box/cpu.max", cpu_max)
            write("sys/fs/cgroup/box/inner/cpu.max", "max 100000")
        return tmp_path

    return make


def test_lists_of_cpus() -> None:
    assert parse_cpus("3,0-1\n") == [0, 1, 3] and parse_cpus("\n") == []
    for cpus in ([], [5], [0, 1, 2, 7, 9, 10]):
        assert parse_cpus(format_cpus(cpus)) == cpus
    for wrong in ("x", "3-1", "1-", "-", "0-99999999"):
        with pytest.raises(ValueError):
            parse_cpus(wrong)


def test_one_node(machine: Callable[..., Path]) -> None:
    topology = read_topology(root=machine({0: "0-3"}, "0-3"), affinity=range(4))
    assert topology == Topology({0: (0, 1, 2, 3)}, {k: k for k in range(4)}, (0, 1, 2, 3), None, ())
    found = plan("auto", 2, topology)
    assert found.cpus == ((0,), (1,)) and found.why == "CPUs 0-1 of 0-3"
    assert plan("auto", 6, topology).cpus == ((0,), (1,), (2,), (3,), (0,), (1,))
    assert "6 processes share 4 CPUs" in plan("auto", 6, topology).why


def test_two_nodes_and_the_interface_on_the_second(machine: Callable[..., Path]) -> None:
    siblings = ("0,8", "1,9", "2,10", "3,11", "4,12", "5,13", "6,14", "7,15")
    root = machine({0: "0-3,8-11", 1: "4-7,12-15"}, "0-15", siblings, iface_node=1)
    topology = read_topology("eth0", root, range(16))
    assert topology.iface_node == 1
    chosen = [cpu for (cpu,) in plan("auto", 16, topology).cpus]
    assert chosen[:8] == [4, 5, 6, 7, 12, 13, 14, 15]  # one thread of each core first, all on the card's node
    assert chosen[8:] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert "NUMA node 1 first, where the interface is" in plan("auto", 2, topology).why


@pytest.mark.parametrize("node", [None, -1, 7])
def test_an_interface_without_a_node_of_its_own(machine: Callable[..., Path], node: int | None) -> None:
    root = machine({0: "0-1", 1: "2-3"}, "0-3", iface_node=node)
    topology = read_topology("eth0", root, range(4))
    assert topology.iface_node is None
    found = plan("auto", 1, topology)
    assert found.cpus == ((0,),) and "node is not known" in found.why


def test_offline_cpus_are_left_out(machine: Callable[..., Path]) -> None:
    topology = read_topology(root=machine({0: "0-3"}, "0,2-3"), affinity=range(4))
    assert topology.allowed == (0, 2, 3) and topology.limits == ("CPUs 1 are offline",)
    assert plan("auto", 2, topology).cpus == ((0,), (2,))
    with pytest.raises(ConfigError, match=r"CPUs 1 are not available; available are 0,2-3 \(CPUs 1 are offline"):
        plan("1-2", 2, topology)


def test_the_limits_of_a_container(machine: Callable[..., Path]) -> None:
    root = machine({0: "0-3", 1: "4-7"}, "0-7", iface_node=0, cpuset="3-5", cpu_max="150000 100000")
    topology = read_topology("eth0", root, range(8))
    assert topology.allowed == (3, 4, 5) and topology.quota == 1.5
    found = plan("auto", 3, topology)
    assert found.cpus == ((3,), (4,), (5,))
    assert "the cgroup's cpuset excludes CPUs 0-2,6-7" in found.why and "1.5 CPUs' worth" in found.why


def test_the_affinity_of_the_process_is_kept(machine: Callable[..., Path]) -> None:
    topology = read_topology(root=machine({0: "0-3"}, "0-3"), affinity=[1, 3])
    assert plan("auto", 2, topology).cpus == ((1,), (3,))


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    topology = read_topology("eth0", tmp_path, [0, 1])
    assert topology == Topology({0: (0, 1)}, {0: 0, 1: 1}, (0, 1), None, ())


def test_a_list_is_given_out_in_turn_and_none_means_none(machine: Callable[..., Path]) -> None:
    topology = read_topology(root=machine({0: "0-3"}, "0-3"), affinity=range(4))
    assert plan("2-3", 3, topology).cpus == ((2,), (3,), (2,))
    assert plan(None, 2, topology).cpus == ((), ())
    for wrong in ("3-1", ","):
        with pytest.raises(ConfigError, match="KLAIS_CPUS"):
            plan(wrong, 1, topology)


def test_this_machine_can_be_read_and_pinned() -> None:
    before = os.sched_getaffinity(0)
    topology = read_topology("lo")
    try:
        first = topology.allowed[0]
        assert pin([first]) == f"pinned to CPUs {first}" and os.sched_getaffinity(0) == {first}
        assert pin([]) == "not pinned" and "refuses CPUs 4095" in pin([4095])
    finally:
        os.sched_setaffinity(0, before)
    assert set(topology.allowed) <= before and topology.iface_node is None
