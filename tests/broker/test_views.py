"""The views of real workers on a real broker: what they answer, who answers, and how a worker starts and ends."""

import itertools
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer

from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.admin_client import admin_client
from klais.kafka.stats import StatsFollower
from klais.ui.recording import Recording, record
from tests.support.fault_harness import Worker
from tests.support.lane import batch
from tests.support.lanes import records
from tests.support.process import HTTP_S, exit_code, wait_for

DEVICES = 40
PER_DEVICE = 5


def ask(worker, path: str) -> tuple[int, dict, dict]:
    """Status, JSON body and headers of a GET."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=HTTP_S) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def publish(settings, topics, number: int = 0) -> None:
    """One batch for each partition: every device sends its first frames, and there is one malformed frame each."""
    by: dict[int, list[bytes]] = {p: [b"rubbish"] for p in range(settings.partitions)}
    for sequence in range(PER_DEVICE):
        for d in range(DEVICES):
            device = f"dev-{d}"
            payload = b'{"t":%d.5}' % (number * PER_DEVICE + sequence)
            frame = encode_frame(device, number * PER_DEVICE + sequence, payload)
            by[partition_of(device.encode(), settings.partitions)].append(frame)
    producer = Producer({"bootstrap.servers": settings.bootstrap})
    for partition, frames in by.items():
        producer.produce(topics.raw, batch(frames, number, time.time_ns()), partition=partition)
    assert producer.flush(HTTP_S) == 0


@pytest.fixture(scope="module")
def pair(kafka, tmp_path_factory):
    """Two workers that share two partitions, with frames taken; ended cleanly (that is checked too)."""
    from klais.config.load import Settings
    from klais.kafka.admin import ensure_topics
    from klais.kafka.topics import Topics

    folder = tmp_path_factory.mktemp("views")
    prefix = f"views-{time.time_ns():x}-"
    settings = Settings(topic_prefix=prefix, kafka_bootstrap=kafka, partitions=2, state_dir=folder)
    topics = Topics.of(settings)
    ensure_topics(settings)
    workers = [Worker(settings, folder / f"w{k}.log", worker_id=f"w{k}") for k in range(2)]
    try:
        for worker in workers:
            worker.wait_ready()
        wait_for(lambda: [len(ask(w, "/readyz")[1]["partitions"]) for w in workers] == [1, 1], 30, "one lane each")
        publish(settings, topics)
        wait_for(
            lambda: sum(ask(w, "/dam/")[1]["total"]["conservation"]["received"] for w in workers) == 202, 30, "frames"
        )
        yield settings, topics, workers
        for worker in workers:
            assert worker.stop() == 0
    finally:
        for worker in workers:
            worker.kill()


def test_every_device_is_found_on_both_workers(pair):
    _, _, workers = pair
    for d in range(0, DEVICES, 3):
        for tail in ("", "why/"):
            (_, one, heads1), (_, two, heads2) = (ask(w, f"/devices/dev-{d}/{tail}") for w in workers)
            assert one["device_id"] == two["device_id"] == f"dev-{d}"
            assert one["worker"] == two["worker"]
            assert ("X-Klais-Owner" in heads1) != ("X-Klais-Owner" in heads2)


def test_unknown_device_is_404_on_both(pair):
    for worker in pair[2]:
        status, body, _ = ask(worker, "/devices/nobody/")
        assert (status, body["code"]) == (404, "unknown_device")


def test_listings_of_one_and_of_all_workers(pair):
    _, _, workers = pair
    alone = [ask(w, "/devices/?size=500&sort=device_id")[1] for w in workers]
    both = [{item["device_id"] for item in body["items"]} for body in alone]
    assert not both[0] & both[1] and len(both[0] | both[1]) == DEVICES
    for worker in workers:
        merged, begin = [], 1
        while True:
            body = ask(worker, f"/devices/?scope=all&size=15&sort=device_id&page={begin}")[1]
            if not body["items"]:
                break
            merged += [item["device_id"] for item in body["items"]]
            begin += 1
        assert merged == sorted(both[0] | both[1])
        assert body["total"] == DEVICES and body["workers_missing"] == [] and body["partitions"] == [0, 1]


def test_dam_holds_and_metrics_agree(pair):
    def agree(worker):
        total = ask(worker, "/dam/")[1]["total"]
        assert total["conservation"]["holds"] and total["dropped"] == {"too_short": 1}
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=HTTP_S) as answer:
            text = answer.read().decode()
        assert f'klais_packets_received_total{{stage="lane"}} {total["conservation"]["received"]}.0' in text
        written = f'klais_kafka_messages_total{{stage="lane",topic="telemetry"}} {total["conservation"]["passed"]}.0'
        return written in text  # what passed counts once Kafka has acknowledged it

    for worker in pair[2]:
        wait_for(lambda worker=worker: agree(worker), 20, "what passed to be acknowledged")


def test_topics_show_ends_and_lag_of_the_group(pair):
    _, topics, workers = pair

    def settled():
        raw = ask(workers[0], "/topics/")[1]["topics"][topics.raw]
        group = (raw["groups"] or {}).get(topics.app_id)
        # a partition without a commit has no lag yet: both must have one
        return raw["end"] == 2 and group and len(group["committed"]) == 2 and group["lag"] == 0 and group

    group = wait_for(settled, 20, "group caught up")
    assert group["committed"] == {"0": 1, "1": 1} and group["members"] == 2

    # The acknowledged position follows the steps; control records (the fences) have offsets too.
    def landed():
        found = ask(workers[0], "/topics/")[1]
        return found["topics"][topics.telemetry]["end"] >= DEVICES * PER_DEVICE and found

    body = wait_for(landed, 20, "the records on the clean topic")
    assert body["lanes"]["lag"] == 0 and set(body["lanes"]["lag_s"].values()) == {0.0}


def test_statistics_records_of_both_add_up(pair):
    settings, _, _ = pair
    follower = StatsFollower(settings)
    follower.start()
    try:

        def both():
            records = follower.newest("worker")
            return len(records) == 2 and records

        records = wait_for(both, 15, "records of both workers")
    finally:
        follower.stop()
    assert set(records) == {"w0", "w1"}
    assert sum(record["counters"]["received"] for record in records.values()) == 202
    assert sum(record["counters"]["passed"] for record in records.values()) == 200
    assert sum(record["gauges"]["devices"] for record in records.values()) == DEVICES


def test_health_and_signals_that_must_not_harm(pair):
    worker = pair[2][0]
    for number in (signal.SIGHUP, signal.SIGUSR2):
        worker.process.send_signal(number)
    wait_for(lambda: "signal_ignored" in worker.tail() and "reloaded" in worker.tail(), 10, "both signals told")
    assert ask(worker, "/health")[0] == 200


def test_a_worker_is_recorded_with_all_that_its_page_asks_for(pair):
    _, _, workers = pair
    wait_for(lambda: ask(workers[0], "/devices/?scope=all")[1]["total"] == DEVICES, 30, "all devices")
    found = Recording(record(f"http://127.0.0.1:{workers[0].port}", 2.0))
    for path in ("/devices/", "/anomalies/", "/control/", "/topics/", "/health", "/api/v1/audit"):
        assert found.page(path) is not None, path
    assert len(found.page("/devices/")["items"]) == DEVICES
    first = found.page("/devices/")["items"][0]["device_id"]
    assert found.page(f"/devices/{first}/")["device_id"] == first and found.page(f"/devices/{first}/why/")["rules"]
    event = json.loads(found.event()[1])
    assert set(event["sample"]) >= {"lag_s", "edge_received"} and event["partitions"] == 2
    assert found.since()["at_ms"]


def test_errors_of_the_server_itself_have_the_one_shape(pair):
    worker = pair[2][0]
    for path in ("/nothing/", "/devices/a/b/c/"):
        status, body, _ = ask(worker, path)
        assert status == 404 and set(body) == {"error", "code", "details"}
    request = urllib.request.Request(f"http://127.0.0.1:{worker.port}/dam/", method="POST", data=b"")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=HTTP_S)
    assert caught.value.code == 405 and json.load(caught.value)["code"] == "method_not_allowed"
    assert ask(worker, "/dam")[0] == 200  # redirected to /dam/


def test_sigterm_leaves_a_checkpoint_and_the_offset_committed(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    worker = Worker(settings, tmp_path / "w.log", checkpoint_interval_s=600)
    try:
        worker.wait_ready()
        publish(settings, topics)
        wait_for(lambda: ask(worker, "/dam/")[1]["total"]["conservation"]["received"] == 201, 20, "frames taken")
        assert worker.stop() == 0
        assert "drained=true" in worker.tail()
    finally:
        worker.kill()
    reports = [
        json.loads(one.value) for one in records(settings, topics.stats) if not one.key.startswith(b"controller-")
    ]
    assert reports[-1]["counters"]["received"] == 201 and reports[-1]["gauges"]["lanes_live"] == 1
    admin = admin_client(settings)  # held: its answers never come once it is gone
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topics.app_id)])
    assert [where.offset for where in asked[topics.app_id].result(HTTP_S).topic_partitions] == [1]
    again = Worker(settings, tmp_path / "again.log")
    try:
        again.wait_ready()
        assert "devices=40 steps=0" in again.log.read_text()
        assert ask(again, "/dam/")[1]["total"]["conservation"]["received"] == 201
    finally:
        again.kill()


def test_wrong_topics_are_refused_with_what_to_do(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    worker = Worker(settings, tmp_path / "w.log", partitions=3)
    try:
        assert exit_code(worker.process, 60, worker.tail) == 1
    finally:
        worker.kill()
    said = worker.log.read_text()
    assert f"topic {topics.raw}: partitions is 2, must be 3" in said
    assert "Traceback" not in said


def test_a_taken_web_port_is_named(pair, settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=1)
    topics_of(settings)
    worker = Worker(settings, tmp_path / "w.log", port=pair[2][0].port)
    try:
        assert exit_code(worker.process, 60, worker.tail) == 1
    finally:
        worker.kill()
    said = worker.log.read_text()
    assert f"tcp port {pair[2][0].port}" in said and "KLAIS_WEB_PORT" in said
    assert "Traceback" not in said


def test_a_tap_shows_frames_of_all_workers_while_it_is_open(pair):
    settings, topics, workers = pair
    command = [sys.executable, "-m", "klais", "tap", "--url", f"http://127.0.0.1:{workers[0].port}"]
    command += ["--prefix", "dev-", "--sample", "100/s", "-n", "150", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            numbers = itertools.count(100)
            wait_for(
                lambda: process.poll() is not None or publish(settings, topics, next(numbers)),
                60,
                "150 frames",
                every_s=0.2,
            )
            shown, notices = process.communicate(timeout=HTTP_S)
        finally:
            process.kill()
    assert process.returncode == 0, notices
    rows = [json.loads(line) for line in shown.splitlines()]
    assert len(rows) == 150 and {row["partition"] for row in rows} == {0, 1}
    assert {row["verdict"] for row in rows} <= {"passed", "queued", "released"}
    assert "taps 2 workers" in notices and "frames that matched were shown" in notices
