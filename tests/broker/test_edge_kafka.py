"""The edge process on a real Kafka: every frame lands in klais_raw, in the dead letter or in a counter."""

import itertools
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import schemathesis
from confluent_kafka import Producer

from klais.config.host import host_of
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.edge.api.openapi import DOCUMENT
from klais.edge.listener import listen
from klais.errors import PortInUse
from klais.kafka.stats import ControlProducer, StatsFollower
from klais.kafka.topics import Topics
from klais.telemetry.stats import StatsPublisher
from tests.support.edge import balanced, edge_process, read_all
from tests.support.needs import need_ipv6
from tests.support.process import PATIENCE, exit_code, wait_for

Make = Callable[..., Settings]
Create = Callable[[Settings], Topics]

JUNK = {
    b"": b"too_short",
    b"\xaa\x55": b"too_short",
    b"xx" * 30: b"bad_magic",
    b"\xaa\x55" + bytes(40): b"bad_device_id",
}


def mixture(count: int, seed: int) -> tuple[list[bytes], list[bytes]]:
    """Good frames of 50 devices, sizes from 22 to 65,507 bytes, and malformed ones."""
    rng = random.Random(seed)
    good, bad = [], []
    for k in range(count):
        payload = b'{"t":%d}' % k if k % 200 else rng.randbytes(rng.choice([2000, 9000, 65_507 - 22]))
        good.append(encode_frame(f"dev-{rng.randrange(50)}", k, payload))
        if k % 20 == 0:
            bad.append(rng.choice(list(JUNK)))
    return good, bad


def test_what_goes_in_comes_out(settings_for: Make, topics_of: Create, tmp_path: Path) -> None:
    settings = settings_for(partitions=3, edge_id=7, batch_max_bytes=20_000, frame_max_bytes=65_507)
    topics = topics_of(settings)
    good, bad = mixture(2000, 1)
    with edge_process(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        edge.send([*good[:1000], *bad, *good[1000:]])
        counters = edge.wait_settled(len(good) + len(bad))
        assert wait_for(lambda: edge.counters()["dead_letters"] == len(bad), 10, "dead letters")
        metrics = edge.get("/metrics")[1]
        code, last = edge.stop()
    assert code == 0, edge.tail()
    assert (counters["passed"], counters["received"]) == (len(good), len(good) + len(bad))
    assert balanced(counters) and balanced(last) and last["undelivered"] == 0
    assert f'klais_packets_received_total{{stage="edge"}} {float(len(good) + len(bad))}' in metrics
    assert f'klais_packets_passed_total{{stage="edge"}} {float(len(good))}' in metrics
    assert 'klais_packets_dropped_total{intentional="true",reason="bad_magic",stage="edge"}' in metrics

    landed: dict[int, list[bytes]] = {p: [] for p in range(3)}
    for record in read_all(settings.bootstrap, topics.raw, 3):
        batch = decode_batch(record.value())
        assert record.key() is None and batch.edge == 7 and batch.offsets is not None
        assert len(record.value()) <= 20_000 or batch.count == 1
        landed[record.partition()] += [batch.frame(i) for i in range(batch.count)]
    assert landed == {p: [f for f in good if partition_of(f[2:18].rstrip(b"\0"), 3) == p] for p in range(3)}

    letters = read_all(settings.bootstrap, topics.dead_letter, 3)
    assert sorted(m.value() for m in letters) == sorted(bad)
    for letter in letters:
        headers = dict(letter.headers())
        assert headers["reason"] == JUNK[letter.value()]
        assert (headers["edge"], headers["stage"], letter.key()) == (b"7", b"edge", None)
        assert headers["source"].startswith(b"127.0.0.1:") and int(headers["ts"]) > 1_600_000_000_000


def test_sigterm_under_load_delivers_what_was_received(settings_for: Make, topics_of: Create, tmp_path: Path) -> None:
    settings = settings_for(partitions=2, batch_sources=True)
    topics = topics_of(settings)
    frames = [encode_frame(f"dev-{k % 20}", k, b'{"t":1}') for k in range(20_000)]
    with edge_process(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        edge.send(frames, paced=False)
        code, last = edge.stop()
    assert code == 0, edge.tail()
    assert last["undelivered"] == 0 and balanced(last)
    batches = [decode_batch(m.value()) for m in read_all(settings.bootstrap, topics.raw, 2)]
    assert sum(b.count for b in batches) == last["passed"]
    assert last["passed"] + last["dropped"].get("kernel_drop", 0) == len(frames)  # SIGTERM came after the last one
    assert {(b.edge, b.boot) for b in batches} == {(1, batches[0].boot)}
    assert all(b.sources is not None for b in batches)


def test_ipv6(settings_for: Make, topics_of: Create, tmp_path: Path) -> None:
    need_ipv6()
    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    with edge_process(settings, tmp_path / "edge.log", host="::1") as edge:
        edge.wait_status(200)
        edge.send([encode_frame("six", 1, b"{}"), b"junk"])
        assert edge.wait_settled(2)["passed"] == 1
        assert edge.stop()[0] == 0
    assert dict(read_all(settings.bootstrap, topics.dead_letter, 1)[0].headers())["source"].startswith(b"[::1]:")


def test_a_taken_port_is_refused_with_the_reason(settings_for: Make) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(PortInUse, match=f"udp port {port} .*KLAIS_UDP_BIND"):
            listen(settings_for(udp_bind=f"127.0.0.1:{port}"))


TOKEN = "let-me-in-let-me-in"


def test_topics_with_another_partition_count_are_refused(settings_for: Make, topics_of: Create, tmp_path: Path) -> None:
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    with edge_process(settings.model_copy(update={"partitions": 3}), tmp_path / "edge.log") as edge:
        assert exit_code(edge.process, 30, edge.tail) == 1
    assert f"topic {topics.raw}: partitions is 2, must be 3" in edge.tail()
    assert "Traceback" not in edge.tail()


def test_config_reaches_the_control_topic_and_every_follower(
    settings_for: Make, topics_of: Create, tmp_path: Path
) -> None:
    settings = settings_for(partitions=1, api_token=TOKEN)
    topics = topics_of(settings)
    elsewhere = ControlFollower(settings)
    elsewhere.start()
    with edge_process(settings, tmp_path / "edge.log") as edge:
        assert edge.wait_status(200)["rate_limit"] == 10_000
        assert edge.post("/config", {"new_rate": 5000})[0] == 401
        for rate, before in ((20_000, 10_000), (30_000, 20_000)):
            answer = edge.post("/config", {"new_rate": rate}, Authorization=f"Bearer {TOKEN}")
            assert answer == (200, {"success": True, "previous_rate": before, "new_rate": rate})
        assert wait_for(lambda: elsewhere.rate(0) == 30_000, 10, "the follower to see the rate")
        assert edge.get("/health")[1]["rate_limit"] == 30_000
    record = orjson.loads(read_all(settings.bootstrap, topics.control, 1)[-1].value())
    assert record.pop("at") > 1_600_000_000_000
    who = {"author": "rest 127.0.0.1", "reason": "POST /config"}
    assert record == {"scope": "override", "mode": "manual", "rate": 30_000} | who
    elsewhere.stop()
    late = ControlFollower(settings)
    late.start()
    assert late.wait_caught_up(20 * PATIENCE) and late.rate(0) == 30_000
    late.stop()


def test_a_follower_catches_up_where_records_never_pause(settings_for: Make, topics_of: Create) -> None:
    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    over, producer = threading.Event(), Producer({"bootstrap.servers": settings.bootstrap, "linger.ms": 0})

    def write_on() -> None:
        for rate in itertools.count(1000):
            producer.produce(topics.control, orjson.dumps({"mode": "manual", "rate": rate}), b"override")
            producer.flush(10 * PATIENCE)
            if over.wait(0.005):  # an empty fetch takes 100 ms
                return

    writer = threading.Thread(target=write_on)
    writer.start()
    follower = ControlFollower(settings)
    try:
        follower.start()
        assert follower.wait_caught_up(15 * PATIENCE) and writer.is_alive()
    finally:
        over.set()
        writer.join()
        follower.stop()


def test_the_system_shows_through_the_edge(settings_for: Make, topics_of: Create, tmp_path: Path) -> None:
    settings = settings_for(partitions=1)
    topics_of(settings)
    producer = ControlProducer(settings, "test")
    counters = {"received": 10, "passed": 6, "queued": 3, "dropped": {"blocked": 1, "device_rate": 2}}
    gauges = {"queue_depth": 1, "tokens": 4.5, "rate_limit": 10_000.0, "lag_records": 0, "anomaly_devices": 2}
    workers = [StatsPublisher(producer, "worker", name, lambda: (counters, gauges)) for name in ("w1", "w2")]
    listener = StatsFollower(settings)
    listener.start()
    with edge_process(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        for worker in workers:
            worker.start()
        assert wait_for(lambda: edge.get("/health")[1]["workers"] == 2, 15, "both workers to be seen")
        stats = edge.get("/stats")[1]
        schema = schemathesis.openapi.from_dict(DOCUMENT)
        for path in ("/health", "/stats", "/metrics", "/openapi.json"):
            schema[path]["GET"].Case().call_and_validate(base_url=f"http://127.0.0.1:{edge.api_port}")
        assert wait_for(lambda: listener.newest("edge"), 15, "the edge's own record")
        for worker in workers:
            worker.stop()
        assert wait_for(lambda: edge.get("/health")[1]["workers"] == 0, 10, "silent workers to be forgotten")
    dam = {"received": 20, "passed": 12, "queued": 6, "dropped": 6, "queue_depth": 2, "tokens": 9.0}
    assert stats["dam"] == dam | {"dropped_by_reason": {"blocked": 2, "device_rate": 4}}
    assert stats["control"]["current_rate"] == 10_000 and stats["control"]["anomaly_devices"] == 4
    own = listener.newest("edge")
    listener.stop()
    producer.close()
    for record in own.values():
        assert record["v"] == 1 and record["kind"] == "edge" and balanced(record["counters"])


def test_without_a_filter_the_edge_keeps_its_hosts_intake(
    settings_for: Make, topics_of: Create, tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, control_auto=True)
    topics = topics_of(settings)
    producer = ControlProducer(settings, "test")
    decision = {
        "mode": "auto",
        "rate": 1000.0,
        "burst": 100.0,
        "hosts": {host_of(settings): {"rate": 0.1, "burst": 300.0}},
    }
    producer.control("global", decision)
    controller = StatsPublisher(producer, "controller", "controller-w", lambda: ({}, {"epoch": 1}))
    frames = [encode_frame(f"dev-{k % 9}", k, b"{}") for k in range(1000)]
    with edge_process(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        edge.send(frames[:200])  # no controller is live: no limit
        edge.wait_settled(200)
        controller.start()
        assert wait_for(lambda: edge.counters()["limit_per_s"] == 0.1, 10, "the limit in force")
        began_s = time.monotonic()
        edge.send(frames[200:])
        counters = edge.wait_settled(1000)
        refilled = 0.1 * (time.monotonic() - began_s)  # frames that the rate has added to the burst
        controller.stop()
        assert wait_for(lambda: edge.counters()["limit_per_s"] is None, 10, "a silent controller's set-point to lapse")
        assert edge.stop()[0] == 0
    producer.close()
    passed = counters["passed"]
    assert 500 <= passed <= 500 + refilled + 1
    assert counters["dropped"] == {"global_rate": 1000 - passed} and balanced(counters)
    batches = [decode_batch(record.value()) for record in read_all(settings.bootstrap, topics.raw, 2)]
    landed = [b.frame(i) for b in batches for i in range(b.count)]
    assert len(landed) == passed and set(frames[:500]) <= set(landed)
