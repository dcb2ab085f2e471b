"""Sums over the edge processes of a fleet, what they are started with, and what is refused."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from klais.config.load import Settings, load
from klais.config.settings import EDGE_IDS
from klais.edge.supervisor.fleet import Fleet
from klais.edge.supervisor.member import Member, environment
from klais.edge.supervisor.merge import sum_gauges, sum_metrics
from klais.edge.supervisor.upgrade import READY_S, RollingUpgrade
from klais.errors import ConfigError, EdgeUnavailable
from klais.system.activation import HeldSocket
from klais.telemetry.metrics import EdgeMetrics
from klais.telemetry.snapshots import EdgeSnapshot
from tests.support.udp import held_sockets

MakeSockets = Callable[[int], list[HeldSocket]]


@pytest.fixture
def sockets() -> Iterator[MakeSockets]:
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(held_sockets(count))


def test_gauges_are_added_where_that_means_something() -> None:
    a = {"queue_depth": 3, "linger_ms": 5.0, "breaker": "closed", "spool_problem": ""}
    b = {"queue_depth": 4, "linger_ms": 9.0, "breaker": "half_open", "spool_problem": "disk full"}
    both = {"queue_depth": 7, "linger_ms": 9.0, "breaker": "half_open", "spool_problem": "disk full"}
    assert sum_gauges([a, b]) == sum_gauges([b, a]) == both
    assert sum_gauges([]) == {}
    left = [{"spool_full_s": 90.0, "spool_bytes": 5}, {"spool_bytes": 7}, {"spool_full_s": 30.0, "spool_bytes": 1}]
    assert sum_gauges(left) == {"spool_full_s": 30.0, "spool_bytes": 13}


def test_metrics_of_several_processes_become_one_text() -> None:
    def text(received: int, batches: int) -> str:
        snapshot = EdgeSnapshot(
            received=received, batches=batches, rate_limit=10_000.0, breaker_transitions={"open": 1}
        )
        metrics = EdgeMetrics(lambda: snapshot)
        metrics.kafka.observe(0.003)
        return metrics.render()[0].decode()

    families = {family.name: family for family in text_string_to_metric_families(sum_metrics([text(5, 1), text(7, 2)]))}

    def value(name: str, **labels: str) -> float:
        family = name.removesuffix("_total").removesuffix("_count")
        (found,) = [s.value for s in families[family].samples if s.name == name and s.labels == labels]
        return found

    assert value("klais_packets_received_total", stage="edge") == 12
    assert value("klais_edge_batches_total") == 3
    assert value("klais_edge_breaker_transitions_total", state="open") == 2
    assert value("klais_rate_limit", stage="edge") == 10_000
    assert value("klais_kafka_latency_seconds_count", stage="edge") == 2
    alone = {family.name for family in text_string_to_metric_families(text(1, 1))}
    assert set(families) == alone
    assert sum_metrics([]) == "\n"


def test_members_have_ids_and_cpus_of_their_own_and_the_settings_of_the_fleet(
    tmp_path: Path, sockets: MakeSockets
) -> None:
    settings = Settings(
        edge_id=7, edge_workers=3, partitions=8, cpus=None, udp_bind="127.0.0.1:5001", state_dir=tmp_path
    )
    held = sockets(4)
    fleet = Fleet(settings, held[:3])
    commands = [member.service._command for member in fleet.members]
    assert [command[command.index("--edge-id") + 1] for command in commands] == ["7", "8", "9"]
    assert len({command[command.index("--api-bind") + 1] for command in commands}) == 3
    assert all(command[command.index("--workers") + 1] == "1" and "--share-port" in command for command in commands)
    pinned = Member(settings, 1, (3,), held[3], now=True).service._command
    assert pinned[pinned.index("--cpus") + 1] == "3" and pinned[-1] == "--now"
    env = environment(settings)
    assert env["KLAIS_PARTITIONS"] == "8" and "NOTIFY_SOCKET" not in env


def test_before_any_process_answers_the_fleet_is_degraded_and_has_no_figures(
    tmp_path: Path, sockets: MakeSockets
) -> None:
    fleet = Fleet(Settings(edge_workers=2, state_dir=tmp_path), sockets(2))
    health = fleet.health()
    assert health["status"] == "degraded" and health["problems"] == [
        "edge 1: does not answer",
        "edge 2: does not answer",
    ]
    assert fleet.live()["live"] is True
    assert fleet.ready()["waiting_for"] == ["edge 1 to answer", "edge 2 to answer"]
    with pytest.raises(EdgeUnavailable):
        fleet.stats()
    with pytest.raises(EdgeUnavailable):
        fleet.set_rate(5000, "127.0.0.1")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"KLAIS_UDP_BIND": "127.0.0.1:0"}, "with a port to share"),
        ({"KLAIS_EDGE_ID": f"{EDGE_IDS - 1}"}, f"ids end at {EDGE_IDS - 1}"),
        ({"KLAIS_SOURCE": "af_xdp", "KLAIS_IFACE": "eth0"}, "serves one process"),
    ],
)
def test_what_cannot_be_shared_is_refused(more: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load({"KLAIS_EDGE_WORKERS": "2"} | more)


class FakeMember:
    """A place whose new process comes up, or does not."""

    def __init__(self, edge_id: int, log: list[str]) -> None:
        self.edge_id, self.log, self.receives, self.ended = edge_id, log, False, False

    def start_successor(self) -> None:
        self.log.append(f"start {self.edge_id}")

    def successor_ended(self) -> bool:
        return self.ended

    def successor_receives(self) -> bool:
        return self.receives

    def promote_successor(self) -> None:
        self.log.append(f"promote {self.edge_id}")

    def drop_successor(self) -> None:
        self.log.append(f"drop {self.edge_id}")


def test_an_upgrade_replaces_one_after_the_other_once_the_new_one_receives() -> None:
    log: list[str] = []
    members = [FakeMember(n, log) for n in (1, 2)]
    upgrade = RollingUpgrade(members)
    upgrade.step(0.0)
    assert not log and not upgrade.running
    upgrade.begin()
    upgrade.begin()
    for now_s in range(5):
        upgrade.step(float(now_s))
    assert log == ["start 1"] and upgrade.running
    members[0].receives = members[1].receives = True
    for now_s in range(5, 10):
        upgrade.step(float(now_s))
    assert log == ["start 1", "promote 1", "start 2", "promote 2"] and not upgrade.running


@pytest.mark.parametrize("ended", [True, False])
def test_an_upgrade_that_fails_leaves_the_old_processes(ended: bool) -> None:
    log: list[str] = []
    members = [FakeMember(n, log) for n in (1, 2)]
    upgrade = RollingUpgrade(members)
    upgrade.begin()
    upgrade.step(0.0)
    members[0].ended = ended
    upgrade.step(1.0 if ended else READY_S + 1)
    assert log == ["start 1", "drop 1"] and not upgrade.running


def test_members_read_the_file_of_settings_themselves(tmp_path: Path) -> None:
    """Or a reload would find the values of before in their environment, which wins over the file."""
    path = tmp_path / "klais.toml"
    path.write_text('[process]\nlog_level = "debug"\n')
    given = environment(load({"KLAIS_CONFIG": str(path), "KLAIS_EDGE_WORKERS": "2"}))
    assert (given["KLAIS_CONFIG"], given["KLAIS_EDGE_WORKERS"]) == (str(path), "2")
    assert "KLAIS_LOG_LEVEL" not in given and load(given).log_level == "debug"


def test_members_trust_the_supervisor_whatever_the_file_of_variables_says(tmp_path: Path) -> None:
    path = tmp_path / "edge.env"
    path.write_text("KLAIS_API_PROXIES=10.0.0.5\nKLAIS_LOG_LEVEL=debug\n")
    given = environment(load({"KLAIS_ENV_FILE": str(path), "KLAIS_EDGE_WORKERS": "2"}))
    member = load({name: value for name, value in given.items() if name.startswith("KLAIS_")})
    assert (member.api_proxies, member.log_level) == ("127.0.0.1", "debug")
