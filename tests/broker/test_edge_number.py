"""Edges that claim their numbers in Kafka at once: no two get the same, and each keeps its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from klais.config.load import Settings
from klais.edge.number import FIRST, claim, with_edge_id
from klais.kafka.topics import Topics
from tests.support.edge import edge_process

Make = Callable[..., Settings]
EDGES = 8


def test_edges_that_claim_at_once_share_no_number(settings_for: Make, topics_of: Callable[[Settings], Topics]) -> None:
    settings = settings_for(partitions=1)
    topics_of(settings)
    with ThreadPoolExecutor(EDGES) as pool:
        firsts = list(pool.map(lambda number: claim(settings, f"node-{number}", 2, 600.0), range(EDGES)))
    taken = [number for first in firsts for number in (first, first + 1)]
    assert len(set(taken)) == 2 * EDGES and min(taken) >= FIRST
    assert claim(settings, "node-3", 2) == firsts[3], "a second start finds the number of the first"
    assert claim(settings, "node-3", 1) == firsts[3]
    more = claim(settings, "node-3", 3)
    assert not {more, more + 1, more + 2} & (set(taken) - {firsts[3], firsts[3] + 1})


def test_an_edge_claims_its_number_once_and_starts_without_kafka_afterwards(
    settings_for: Make, topics_of: Callable[[Settings], Topics], tmp_path
) -> None:
    settings = settings_for(partitions=1, edge_id_from="claim", edge_name="node-a", state_dir=tmp_path / "a")
    topics_of(settings)
    with edge_process(settings, tmp_path / "edge.log") as edge:
        assert edge.wait_status(200)["edge_id"] == FIRST
        assert edge.stop()[0] == 0
    nobody = {"kafka_bootstrap": "127.0.0.1:1", "topic_prefix": settings.topic_prefix, "edge_id_from": "claim"}
    again = Settings(**nobody, edge_name="node-a", state_dir=tmp_path / "a")
    assert with_edge_id(again).edge_id == FIRST
    other = settings.model_copy(update={"edge_name": "node-b", "state_dir": tmp_path / "b"})
    assert with_edge_id(other).edge_id == FIRST + 1
