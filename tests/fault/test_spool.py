"""The broker goes away under load (stopped, killed and restarted with its data), the edge is killed while it spools and
while it replays: the lanes take everything that was accepted once and in order, and all counters add up.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from confluent_kafka.admin import NewPartitions

from klais.config.load import Settings
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.edge.sinks.spool.backlog import spool_folder
from klais.edge.sinks.spool.segment import HEADER_SIZE, parse_name, walk
from klais.kafka.admin_client import admin_client
from klais.kafka.topics import Topics
from tests.broker.test_edge_fleet import send_from_many
from tests.support.edge import balanced, read_all
from tests.support.fault_harness import judge, settle
from tests.support.process import PATIENCE, exit_code, kill_hard, wait_for
from tests.support.stage import Sending, Stage, held_against, stage

OUTAGE_S = float(os.environ.get("KLAIS_TEST_OUTAGE_S", "3"))


def on_disk(settings: Settings) -> list[bytes]:
    """Frames in the spool's files; some of them may be acknowledged already."""
    found = []
    for path in spool_folder(settings).glob("*.spool"):
        name, data = parse_name(path.name), path.read_bytes()
        assert name is not None
        for head in walk(data, name.salt):
            batch = decode_batch(data[head.at + HEADER_SIZE : head.end])
            assert batch.count == head.frames
            found += [batch.frame(i) for i in range(batch.count)]
    return found


def some(first: int, count: int) -> list[bytes]:
    """Frames of 20 devices, numbered."""
    return [encode_frame(f"dev-{k % 20}", k, b'{"t":%d}' % k + b" " * 200) for k in range(first, first + count)]


def taken(settings: Settings) -> list[bytes]:
    """Frames on the staging topic as a lane takes them: a batch whose number is not above the last one is a repeat."""
    out: list[bytes] = []
    last: dict[tuple[int, int, int], int] = {}
    for message in read_all(settings.bootstrap, Topics.of(settings).raw, settings.partitions):
        batch = decode_batch(message.value())
        key = (message.partition(), batch.edge, batch.boot)
        if batch.number > last.get(key, -1):
            last[key] = batch.number
            out += [batch.frame(i) for i in range(batch.count)]
    return out


def in_order(frames: list[bytes]) -> bool:
    """Whether each device's frames come in the order of their numbers, once."""
    newest: dict[bytes, int] = {}
    for frame in frames:
        number = int.from_bytes(frame[18:22], "big")
        if number <= newest.get(frame[2:18], -1):
            return False
        newest[frame[2:18]] = number
    return True


def test_an_outage_under_load_loses_nothing(tmp_path: Path) -> None:
    """Stopped, then killed and restarted with its data, while the simulator sends and a worker takes."""
    with stage() as on:
        edge, worker = on.edge(tmp_path / "edge.log"), on.worker(tmp_path / "worker.log")
        edge.wait_status(200)
        worker.wait_ready()
        manifest = tmp_path / "sent.manifest"
        with Sending(edge.udp_port, manifest):
            for outage in ("freeze", "kill"):
                time.sleep(1)
                getattr(on, outage)()
                problems = edge.wait_status(503, 20)["problems"]
                assert "the breaker is" in str(problems)
                time.sleep(OUTAGE_S / 2)

                def spooled() -> dict[str, Any] | None:
                    now = edge.counters()
                    assert balanced(now, now["queue_depth"]), now
                    return now if now["spooled"] > 0 else None

                wait_for(spooled, 30, "frames in the spool")
                on.thaw() if outage == "freeze" else on.start()
                wait_for(lambda: edge.counters()["breaker"] == "closed", 30, "the breaker to close")
            time.sleep(1)
        counters = edge.wait_settled(1, 60)
        edge.wait_status(200)
        assert edge.stop()[0] == 0
        settle(on.settings)
        assert worker.stop() == 0
        # On a busy machine the kernel may drop frames before the edge receives them: it counts them, and no others
        # lack.
        overrun = counters["dropped"].get("kernel_drop", 0)
        assert balanced(counters)
        assert not set(counters["dropped"]) - {"too_short", "bad_magic", "bad_device_id", "kernel_drop"}
        assert counters["spool_replayed"] > 0
        audits = judge(on.settings)
        verdict = held_against(on.settings, manifest)
        assert verdict.ok(allow_missing=overrun), verdict.table(False)
        assert verdict.landed == verdict.good - verdict.missing == sum(audit.telemetry for audit in audits)


def test_the_edge_is_killed_while_spooling_and_while_replaying(tmp_path: Path) -> None:
    """What the spool held at each kill arrives, once and in order, under the boots that wrote it."""
    points = ["spool_written:40", "replay_sent:7", "replay_acked:5", "replay_acked:1"]
    with stage(batch_max_bytes=3000) as on:
        edge = on.edge(tmp_path / "edge.log")
        edge.wait_status(200)
        edge.send(some(0, 500))
        edge.wait_settled(500)
        on.freeze()
        edge.send(some(500, 1))
        edge.wait_status(503)
        edge.send(some(501, 1499))
        wait_for(lambda: edge.counters()["spooled"] == 1500, 20, "1500 frames in the spool")
        kill_hard(edge.process)
        accepted = set(on_disk(on.settings)) | set(some(0, 500))
        assert len(accepted) == 2000
        on.thaw()
        sent = 2000
        for point in points:
            edge = on.edge(tmp_path / "edge.log", fault_point=point)
            if point.startswith("spool"):
                edge.wait_status(200)
                on.freeze()
                while edge.process.poll() is None and sent < 8000:
                    with contextlib.suppress(ConnectionRefusedError):
                        edge.send(some(sent, 60))
                    sent += 60
                    time.sleep(0.1)
            assert exit_code(edge.process, 20, edge.tail) == -signal.SIGKILL, edge.tail()
            accepted |= set(on_disk(on.settings))
            on.thaw()
        before = len(on_disk(on.settings))
        edge = on.edge(tmp_path / "edge.log")
        edge.wait_status(200)
        edge.send(some(sent, 300))
        counters = edge.wait_settled(300, 60)
        assert 0 < counters["spool_recovered"] <= before
        assert balanced(counters) and on_disk(on.settings) == []
        assert edge.stop()[0] == 0
        found = taken(on.settings)
        assert in_order(found)
        assert accepted | set(some(sent, 300)) <= set(found)
        assert "Traceback" not in edge.log.read_text()


def test_sigterm_without_kafka_spools_the_rest_and_the_next_start_delivers_it(tmp_path: Path) -> None:
    with stage() as on:
        edge = on.edge(tmp_path / "edge.log")
        edge.wait_status(200)
        edge.send(some(0, 200))
        edge.wait_settled(200)
        on.freeze()
        edge.send(some(200, 800))
        code, last = edge.stop()
        assert code == 0, edge.tail()
        assert last["undelivered"] == 0 and last["spooled"] == 800 and balanced(last, 800)
        assert sorted(on_disk(on.settings)) == sorted(some(200, 800))
        on.thaw()
        edge = on.edge(tmp_path / "edge.log")
        edge.wait_status(200)
        counters = edge.wait_settled(0)
        assert (counters["spool_recovered"], counters["passed"], counters["received"]) == (800, 800, 0)
        assert sorted(taken(on.settings)) == sorted(some(0, 1000)) and in_order(taken(on.settings))
        on.kill()
        edge.send(some(1000, 100))
        wait_for(lambda: edge.counters()["received"] == 100, 10, "100 frames received")
        edge.process.send_signal(signal.SIGTERM)
        time.sleep(0.7)
        code, last = edge.stop()  # the second signal: the edge does not wait for Kafka, nor leave frames behind
        assert code == 0, edge.tail()
        assert last["spooled"] == 100 and sorted(on_disk(on.settings)) == sorted(some(1000, 100))


def test_an_edge_that_starts_without_kafka_receives_at_once_and_sends_only_what_it_may(tmp_path: Path) -> None:
    with stage() as on:
        first = on.edge(tmp_path / "edge.log")
        first.wait_status(200)
        assert first.stop()[0] == 0
        on.stop()
        edge = on.edge(tmp_path / "edge.log")
        problems = edge.wait_status(503)["problems"]
        wait_for(lambda: "spooled" in edge.counters(), 10, "an edge that receives without Kafka")
        edge.send(some(0, 500))
        wait_for(lambda: edge.counters()["spooled"] == 500, 10, f"500 frames on disk, not {problems}")
        assert any("no Kafka broker answers" in text for text in edge.wait_status(503)["problems"])
        on.start()
        edge.wait_status(200)
        edge.send(some(500, 100))
        counters = edge.wait_settled(600)
        assert counters["passed"] == 600 and balanced(counters)
        assert sorted(taken(on.settings)) == sorted(some(0, 600))
        assert in_order(taken(on.settings)) and edge.stop()[0] == 0

        # Meanwhile somebody adds a partition: what is in the spool must not go out by the old count.
        raw = Topics.of(on.settings).raw
        admin = admin_client(on.settings)
        admin.create_partitions([NewPartitions(raw, 3)])[raw].result(10 * PATIENCE)
        on.freeze()
        edge = on.edge(tmp_path / "edge.log")
        wait_for(lambda: edge.get("/stats")[0] == 200 and "spooled" in edge.counters(), 20, "an edge that receives")
        edge.send(some(600, 50))
        wait_for(lambda: edge.counters()["spooled"] == 50, 10, "50 frames on disk")
        on.thaw()
        assert exit_code(edge.process, 20, edge.tail) != 0 and "set KLAIS_PARTITIONS=3" in edge.tail()
        assert sorted(on_disk(on.settings)) == sorted(some(600, 50))
        assert len(taken(on.settings)) == 600
        redistributed(on, tmp_path / "edge.log")


def redistributed(on: Stage, log: Path) -> None:
    """Somebody does what the text says, with new topics: what was spooled for 2 partitions lands in those of its
    devices.
    """
    three = on.settings.model_copy(update={"partitions": 3})
    raw, admin = Topics.of(three).raw, admin_client(three)
    rest = [spec.name for spec in Topics.of(three).specs() if spec.partitions == 3 and spec.name != raw]
    for done in admin.create_partitions([NewPartitions(name, 3) for name in rest]).values():
        done.result(10 * PATIENCE)
    on.freeze()
    edge = on.edge(log, partitions=3)
    problems = edge.wait_status(503)["problems"]
    assert any("batches for 2 partitions, KLAIS_PARTITIONS is 3" in text for text in problems), problems
    on.thaw()
    edge.wait_status(200)
    edge.send(some(650, 20))
    counters = edge.wait_settled(20)
    assert counters["spool_recovered"] == 50 and counters["passed"] == 70 and balanced(counters)
    assert edge.stop()[0] == 0 and not list(spool_folder(three).glob("*.spool"))
    landed = [
        (message.partition(), batch.frame(i))
        for message in read_all(three.bootstrap, raw, 3)
        for batch in [decode_batch(message.value())]
        for i in range(batch.count)
    ][-70:]
    found = [(p, frame) for p, frame in landed if int.from_bytes(frame[18:22], "big") >= 600]
    assert len(taken(three)) == 670 and in_order([frame for _, frame in found])
    assert all(p == partition_of(frame[2:18].rstrip(b"\0"), 3) for p, frame in found)


def test_a_fleet_keeps_everything_over_an_outage(tmp_path: Path) -> None:
    with stage(edge_workers=2, edge_id=5) as on:
        fleet = on.edge(tmp_path / "fleet.log")
        wait_for(lambda: fleet.get("/health")[0] == 200 and fleet.get("/health")[1]["edges"] == 2, 60, "two edges")
        sent = send_from_many(fleet.udp_port, 0, 400)
        wait_for(lambda: fleet.counters()["passed"] == 400, 20, "400 frames published")
        on.freeze()
        sent += send_from_many(fleet.udp_port, 400, 1200)
        wait_for(lambda: fleet.counters()["spooled"] == 1200, 20, "1200 frames on the disks of both")
        each = fleet.get("/stats")[1]["edge"]["processes"]
        assert all(one["gauges"]["spooled"] > 0 for one in each.values()) and len(each) == 2
        fleet.wait_status(503)
        on.thaw()
        fleet.wait_status(200)
        wait_for(lambda: fleet.counters()["passed"] == 1600, 30, "all published")
        counters = fleet.counters()
        assert balanced(counters) and not counters["dropped"]
        assert sorted(taken(on.settings)) == sorted(sent)
        assert fleet.stop()[0] == 0
