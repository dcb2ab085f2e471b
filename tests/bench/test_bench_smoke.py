"""The shortest benchmark on a real Kafka: it gives its figures, and every frame has landed. No
figure is judged here.
"""

import os

from bench.cases import idle, worker
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
