"""A cluster with an authorizer: edge and worker run with exactly the documented rights, and say what is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from klais.config.load import Settings, environ_of
from klais.core.wire.constants import encode_frame
from klais.errors import KafkaForbidden, SetupMissing
from klais.kafka.admin import check_topics, ensure_topics, wait_for_broker
from klais.kafka.admin_client import admin_client
from klais.kafka.rights import ROLES, Right, rights
from klais.kafka.topics import Topics
from tests.support.broker_with_users import broker_with_listener
from tests.support.edge import edge_process, read_all
from tests.support.fault_harness import worker
from tests.support.needs import need_missing
from tests.support.process import wait_for

SECRET = "hunter2-hunter2"
RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
}


@dataclass(frozen=True)
class Cluster:
    plain: Settings
    address: str

    def settings(self, user: str, folder: Path, prefix: str) -> Settings:
        return Settings(
            kafka_bootstrap=self.address,
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_username=user,
            kafka_sasl_password=SECRET,
            topic_prefix=prefix,
            partitions=2,
            state_dir=folder / user,
        )

    def grant(self, user: str, granted: list[Right]) -> None:
        bindings = [
            AclBinding(
                RESOURCES[right.resource],
                right.name,
                ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                OPERATIONS[operation],
                AclPermissionType.ALLOW,
            )
            for right in granted
            for operation in right.operations
        ]
        admin = admin_client(self.plain)
        for future in admin.create_acls(bindings).values():
            future.result(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    users = " ".join(f'user_{role}="{SECRET}"' for role in ROLES)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = [
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN",
        f"listener.name.sasl_plaintext.plain.sasl.jaas.config={login} required {users};",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users=User:ANONYMOUS",
        "allow.everyone.if.no.acl.found=false",
    ]
    try:
        with broker_with_listener(tmp_path_factory.mktemp("rights"), "SASL_PLAINTEXT", properties) as (plain, address):
            yield Cluster(plain, address)
    except SetupMissing as error:
        need_missing("broker", str(error))


def test_edge_and_worker_run_with_the_documented_rights(cluster: Cluster, tmp_path: Path) -> None:
    of = {role: cluster.settings(role, tmp_path, "granted-") for role in ROLES}
    for role in ROLES:
        cluster.grant(role, rights(of[role], role))
    ensure_topics(of["admin"])
    topics = Topics.of(of["edge"])
    login = {name[6:].lower(): value for name, value in environ_of(of["worker"]).items() if "SASL" in name}
    protocol = {"kafka_security_protocol": "SASL_PLAINTEXT"}
    plain = cluster.plain.model_copy(update={"kafka_bootstrap": cluster.plain.bootstrap})
    with (
        edge_process(of["edge"], tmp_path / "edge.log") as edge,
        worker(of["worker"], tmp_path / "worker.log", **login, **protocol) as it,
    ):
        edge.wait_status(200)
        it.wait_ready()
        edge.send([encode_frame(b"dev-%d" % (n % 9), n, b'{"t":1}') for n in range(100)] + [b"rubbish"])
        landed = wait_for(lambda: _all(plain, topics.telemetry, 100), 60, "100 frames landed")
        status, answer = edge.post("/config", {"new_rate": 5000})
        assert status == 200, answer
        wait_for(lambda: len(read_all(plain.bootstrap, topics.dead_letter, 2)) == 1, 30, "the dead letter")
        log = (tmp_path / "worker.log").read_text() + (tmp_path / "edge.log").read_text()
    assert len(landed) == 100
    refused = [line for line in log.splitlines() if "uthorization" in line or "controller_ended" in line]
    assert not refused, "\n".join(refused[:5])


def _all(settings: Settings, topic: str, count: int) -> list[object]:
    found = read_all(settings.bootstrap, topic, 2)
    return found if len(found) >= count else []


def test_a_missing_right_is_named_and_not_taken_for_a_broker_that_is_away(cluster: Cluster, tmp_path: Path) -> None:
    plain = cluster.plain.model_copy(update={"topic_prefix": "refused-", "partitions": 2})
    ensure_topics(plain)
    edge = cluster.settings("edge", tmp_path, "refused-")
    cluster.grant("edge", [right for right in rights(edge, "edge") if right.resource != "topic"])
    only_describe = [Right("topic", spec.name, False, ("Describe",)) for spec in Topics.of(edge).specs()]
    cluster.grant("edge", only_describe)
    with pytest.raises(KafkaForbidden) as caught:
        check_topics(edge)
    assert "refuses" in str(caught.value) and "klais topics rights" in str(caught.value)
    with edge_process(edge, tmp_path / "edge.log") as process:

        def named() -> bool:
            problems = (process.get("/health")[1] or {}).get("problems", [])
            return any("uthorization" in text and "klais topics rights" in text for text in problems)

        wait_for(named, 60, "the missing right in /health")


def test_a_wrong_password_is_named_at_once(cluster: Cluster, tmp_path: Path) -> None:
    settings = cluster.settings("edge", tmp_path, "x-").model_copy(update={"kafka_sasl_username": "nobody"})
    client: AdminClient | None = None
    with pytest.raises(KafkaForbidden, match="uthentication"):
        client = wait_for_broker(settings, timeout_s=30)
    assert client is None
