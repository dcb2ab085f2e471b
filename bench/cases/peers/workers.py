"""Each worker on the same backlog: CPU time a frame in its steady state, the broker's beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.cases import baseline, worker
from bench.cases.peers.catalog import Peer, folder
from bench.harness import DEVICES, Bench, Child, Ends, watch
from bench.harness.report import rates, rounded, steady
from klais.config.load import Settings

FRAMES_PER_S = {"klais": 400_000, "faust": 800, "quixstreams": 4_000, "bytewax": 4_000}  # about half of what each can
PROGRAMS = Path(__file__).parent / "programs"


def measure_worker(bench: Bench, peer: Peer, seconds: float) -> dict[str, Any]:
    """One worker on a backlog of some ``seconds`` of its work."""
    frames = int(FRAMES_PER_S[peer.name] * max(2.0, 2 * seconds))
    found = worker.measure(bench, frames, DEVICES) if peer.name == "klais" else _plain(bench, peer, frames)
    return {
        "worker_us": rounded(found["cpu_us_per_frame"]),
        "worker_broker_us": rounded(found["kafka_cpu_us_per_frame"]),
        "worker_frames_per_s": rounded(found["frames_per_s"]),
        "worker_rss_mb": rounded(found["rss_mb"]),
    }


def _plain(bench: Bench, peer: Peer, frames: int) -> dict[str, float]:
    """A worker that takes one frame a record from ``frames`` and puts one out on ``clean``."""
    settings = bench.settings()
    raw, clean = (baseline.create_topic(settings, name) for name in ("frames", "clean"))
    try:
        baseline.preload(settings, raw, frames)
        ends, kafka_s = Ends(settings, clean), bench.kafka_cpu_s()
        with _started(bench, peer, settings, raw, clean) as child:
            samples = watch(child, ends.total, frames, 120)
            kafka_us = (bench.kafka_cpu_s() - kafka_s) / frames * 1e6
            found = rates(*steady(samples, frames))
            return found | {"rss_mb": child.rss_mb(), "kafka_cpu_us_per_frame": kafka_us}
    finally:
        bench.delete([raw, clean])


@contextmanager
def _started(bench: Bench, peer: Peer, settings: Settings, raw: str, clean: str) -> Iterator[Child]:
    if peer.name == "faust":
        child = baseline.start_worker(bench, settings)
    else:
        python, state = str(folder(peer) / peer.program), bench.folder / f"{peer.name}-{settings.topic_prefix}"
        state.mkdir()
        env = {
            "PEER_BOOTSTRAP": settings.bootstrap, "PEER_RAW": raw, "PEER_CLEAN": clean, "PEER_STATE": str(state),
            "PEER_PARTITIONS": str(settings.partitions), "PEER_GROUP": f"{settings.topic_prefix}peer",
        }  # fmt: skip
        words = {
            "quixstreams": [python, str(PROGRAMS / "quix_count.py")],
            "bytewax": [
                python,
                "-m",
                "bytewax.run",
                f"{PROGRAMS / 'bytewax_count.py'}:flow",
                "-r",
                str(state),
                "-s",
                "10",
                "-b",
                "0",
            ],
        }[peer.name]
        child = bench.child(f"peer-{peer.name}", words, settings, **env)
    try:
        yield child
    finally:
        child.stop(10)
