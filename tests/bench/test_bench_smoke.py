"""The shortest benchmark on a real Kafka: it gives its figures, and every frame has landed. No
figure is judged here.
"""

import os

from bench.cases import ablation, idle, worker
from bench.cases.peers import run as peers
from bench.cases.peers.catalog import GATEWAYS
from bench.harness import Bench


def test_worker_benchmark_gives_its_figures(kafka, monkeypatch):
    monkeypatch.setenv("KLAIS_KAFKA_BOOTSTRAP", kafka)
    with Bench() as bench:
        result = worker.run(bench, frames=500_000, repeats=1)
    assert result.figures["cpu_us_per_frame"] > 0
    assert result.figures["frames_per_s"] > 0
    assert result.held_to()[0]["verdict"] in ("goal met", "must met", "MUST MISSED")
    assert not bench.folder.exists()


if os.environ.get("KLAIS_TEST_BENCHES") == "1":  # three systems come up and go: in `make release-test`

    def test_idle_benchmark_gives_its_figures(kafka, monkeypatch):
        monkeypatch.setenv("KLAIS_KAFKA_BOOTSTRAP", kafka)
        times = idle.Times(0.2, 0.5, 2.0, 2.0)
        with Bench() as bench:
            result = idle.run(bench, rates=(0, 200), targets_ms=(50,), devices=(50,), times=times)
        at = [(row["way"], row["rate"]) for row in result.rows]
        assert at == [("klais", 0), ("klais", 200), ("plain", 0), ("plain", 200), ("klais", idle.CURVE_RATE)]
        for row in result.rows:
            assert row["cores"] == round(row["broker"] + row["edge"] + row["worker"], 4)
            assert row["rate"] == 0 or row["p99_ms"] >= row["p50_ms"] > 0

    def test_peers_that_come_with_us_give_their_figures(kafka, monkeypatch):
        monkeypatch.setenv("KLAIS_KAFKA_BOOTSTRAP", kafka)
        ours = [peer for peer in GATEWAYS if not peer.program]
        with Bench() as bench:
            comparison = peers.Comparison(bench, rates=(1_000,), seconds=0.5, repeats=1, probes=1)
            comparison.in_turns("gateway", ours, comparison.gateway)
        assert comparison.without == {}
        for row in comparison.result.rows:
            assert row["gateway_us_1k"] > 0 and row["lost_1k"] >= 0

    def test_ablation_benchmark_gives_its_figures(kafka, monkeypatch):
        monkeypatch.setenv("KLAIS_KAFKA_BOOTSTRAP", kafka)
        with Bench() as bench:
            names = ("whole", "unjournalled")
            result = ablation.run(bench, frames=500_000, repeats=1, names=names)
        assert [row["worker"] for row in result.rows] == list(names)
        assert result.figures["of_whole_whole"] == 1
        assert result.figures["payload_check_interpreted_times"] > 1
