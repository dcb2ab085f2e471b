"""A source address is blocked by a command: the edge drops its frames, whatever ids they name, and counts them."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from klais.cli.main import main
from klais.config.load import Settings, environ_of
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.edge import EdgeProcess, balanced, edge_process, read_all
from tests.support.process import wait_for
from tests.support.schemas import problems
from tests.support.udp import send_all

Make = Callable[..., Settings]
Create = Callable[[Settings], Topics]
GOOD, FLOOD = "127.0.0.1", "127.0.0.2"


def send_from(address: str, edge: EdgeProcess, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        sock.connect((edge.host, edge.udp_port))
        send_all(sock, frames, edge.udp_port)


def test_a_flood_of_invented_ids_from_one_address_is_stopped(
    settings_for: Make, topics_of: Create, tmp_path: Path
) -> None:
    settings = settings_for(partitions=2)
    topics = topics_of(settings)

    def klais(*words: str) -> str:
        done = CliRunner().invoke(main, ["sources", *words], env=environ_of(settings))
        assert done.exit_code == 0, done.output
        return done.output

    flood = [encode_frame(f"fake-{n:08x}", n, b"{}") for n in range(900)]
    good = [encode_frame(f"dev-{n % 7}", n, b"{}") for n in range(600)]
    with edge_process(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        send_from(FLOOD, edge, flood[:300])  # before the block
        edge.wait_settled(300)
        record = json.loads(klais("block", FLOOD, "--for", "10m", "--reason", "flood", "--json"))
        assert (record["scope"], record["block"], record["reason"]) == ("source/127.0.0.2/32", True, "flood")
        assert 0 < record["until_ms"] - record["at"] <= 600_000
        wait_for(lambda: edge.counters().get("blocked_sources") == 1, 10, "the block at the edge")
        send_from(FLOOD, edge, [*flood[300:], *[b"junk"] * 100])
        send_from(GOOD, edge, good[:500])
        counters = edge.wait_settled(1500)
        assert counters["dropped"] == {"blocked_source": 700} and counters["dead_letters"] == 0
        assert counters["source_drops"] == {"127.0.0.2/32": 700} and balanced(counters)
        assert f'reason="blocked_source",stage="edge"}} {700.0}' in edge.get("/metrics")[1]
        assert "klais_edge_blocked_sources 1.0" in edge.get("/metrics")[1]
        klais("unblock", FLOOD, "--reason", "over")
        wait_for(lambda: "blocked_sources" not in edge.counters(), 10, "the end of the block")
        send_from(FLOOD, edge, good[500:])
        counters = edge.wait_settled(1600)
        assert counters["dropped"] == {"blocked_source": 700} and counters["passed"] == 900
        code, last = edge.stop()
    assert code == 0 and balanced(last)
    batches = [decode_batch(record.value()) for record in read_all(settings.bootstrap, topics.raw, 2)]
    landed = sorted(batch.frame(i) for batch in batches for i in range(batch.count))
    assert landed == sorted([*flood[:300], *good])
    audited = [json.loads(record.value()) for record in read_all(settings.bootstrap, topics.audit, 1)]
    written = [json.loads(record.value()) for record in read_all(settings.bootstrap, topics.control, 1)]
    assert [problems("klais_audit", one) for one in audited] == [problems("klais_control", one) for one in written]
    assert all(problems("klais_audit", one) == [] for one in audited) and len(written) == 2
    assert [(one["scope"], one["reason"]) for one in audited] == [
        ("source/127.0.0.2/32", "flood"), ("source/127.0.0.2/32", "over"),
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "::/0", "192.0.2.7/24"])
def test_a_prefix_that_cannot_be_blocked_writes_nothing(settings_for: Make, topics_of: Create, prefix: str) -> None:
    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    done = CliRunner().invoke(main, ["sources", "block", prefix], env=environ_of(settings))
    assert done.exit_code == 2 and "Error" in done.output
    assert read_all(settings.bootstrap, topics.control, 1) == []
