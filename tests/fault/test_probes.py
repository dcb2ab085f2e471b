"""Probes of an edge without Kafka: it lives, it is ready while the spool has room, and says when that is used up."""

from pathlib import Path

from klais.config.load import Settings
from klais.core.wire.constants import encode_frame
from tests.support.edge import edge_process
from tests.support.ports import free_port
from tests.support.process import wait_for

SPOOL_BYTES = 4 << 20


def test_no_probe_says_that_an_edge_without_kafka_should_be_killed(tmp_path: Path) -> None:
    settings = Settings(
        state_dir=tmp_path / "state", kafka_bootstrap=f"127.0.0.1:{free_port()}", partitions=2,
        spool_max_bytes=SPOOL_BYTES, breaker_timeout_s=1,
    )  # fmt: skip
    frames = [encode_frame(f"dev-{k % 20}", k, b'{"t":%d}' % k + b" " * 1800) for k in range(4000)]
    with edge_process(settings, tmp_path / "edge.log") as edge:
        assert edge.wait_status(503)["status"] == "degraded"
        assert edge.get("/livez")[0] == 200
        assert edge.get("/readyz") == (200, {"ready": True, "waiting_for": [], "edge_id": settings.edge_id})

        edge.send(frames[:100])
        wait_for(lambda: edge.counters()["spooled"] == 100, 30, "frames in the spool")
        assert (edge.get("/livez")[0], edge.get("/readyz")[0], edge.get("/health")[0]) == (200, 200, 503)

        edge.send(frames)
        wait_for(lambda: edge.counters()["dropped"].get("spool_full"), 30, "a full spool")
        status, body = edge.get("/readyz")
        assert status == 503 and "the spool is full" in body["waiting_for"][0]
        assert edge.get("/livez")[0] == 200 and edge.get("/livez")[1]["live"] is True
        wait_for(lambda: edge.get("/stats")[1]["edge"]["gauges"].get("spool_full_s") == 0.0, 30, "no time left")
        assert edge.get("/stats")[1]["edge"]["gauges"]["spool_max_bytes"] == SPOOL_BYTES
