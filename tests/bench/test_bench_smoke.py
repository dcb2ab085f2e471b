"""The shortest benchmark on a real Kafka: it gives its figures, and every frame has landed. No
figure is judged here.
"""

from bench.cases import worker
from bench.harness import Bench


def test_worker_benchmark_gives_its_figures(kafka, monkeypatch):
    monkeypatch.setenv("KLAIS_KAFKA_BOOTSTRAP", kafka)
    with Bench() as bench:
        result = worker.run(bench, frames=500_000, repeats=1)
    assert result.figures["cpu_us_per_frame"] > 0
    assert result.figures["frames_per_s"] > 0
    assert result.held_to()[0]["verdict"] in ("goal met", "must met", "MUST MISSED")
    assert not bench.folder.exists()
