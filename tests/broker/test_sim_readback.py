"""Topics read back from a real Kafka as frame columns, and `klais simulate check` on top of it."""

import json
import socket
import threading
import time

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from klais.cli.main import main
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import HEADER_SIZE, Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.errors import KafkaUnavailable
from klais.kafka.clients import confluent_config
from klais.kafka.offsets import begin_offsets, end_offsets, offsets_at
from klais.sim.columns import columns_of_frames
from klais.sim.kinds import DUPLICATE
from klais.sim.manifest import read_manifest
from klais.verify.judge import judge
from klais.verify.readback import read_topic_columns
from tests.support.process import PATIENCE, wait_for

IDS = [b"dev-1", b'quo"te', b'x","data":{}', "zwölf".encode(), b"sixteen-bytes-id", b"back\\slash"]


def _clean(frame, ts_ms):
    device_id, sequence = frame[2:18].rstrip(b"\0"), int.from_bytes(frame[18:22], "big")
    head = orjson.dumps({"device_id": device_id.decode(), "seq": sequence, "ts": ts_ms})
    return device_id, head[:-1] + b',"data":' + frame[HEADER_SIZE:] + b"}"


def _produce_clean(producer, topic, frames, partitions, ts_ms=5):
    for frame in frames:
        key, value = _clean(frame, ts_ms)
        producer.produce(topic, value, key, partition=partition_of(key, partitions))
    assert producer.flush(30 * PATIENCE) == 0


def _read(settings, topic):
    return read_topic_columns(settings, topic, begin_offsets(settings, topic), end_offsets(settings, topic))


@pytest.fixture
def settings(settings_for):
    return settings_for(partitions=3)


@pytest.fixture
def topics(settings, topics_of):
    return topics_of(settings)


@pytest.fixture
def producer(settings):
    return Producer(confluent_config(settings))


def test_accepted_and_landed_frames_read_back_and_are_judged(settings, topics, producer):
    frames = [encode_frame(name, n, b'{ "t" : %d.50 }' % n) for n in range(50) for name in IDS]
    for partition in range(3):
        mine = [f for f in frames if partition_of(f[2:18].rstrip(b"\0"), 3) == partition]
        for number in range(0, len(mine), 40):
            part = mine[number : number + 40]
            offsets = np.full(len(part), 1_000_000, np.uint32) if partition == 1 else None
            record = encode_batch(part, 7_000_000, 1, 1, number, offsets)
            for _ in range(2):  # the edge had to send it twice: counts once
                producer.produce(topics.raw, record, partition=partition)
        producer.produce(topics.raw, b"no frame batch", partition=partition)
    _produce_clean(producer, topics.telemetry, frames, 3)
    accepted, landed = _read(settings, topics.raw), _read(settings, topics.telemetry)
    assert set(accepted.hashes.tolist()) == set(columns_of_frames(frames).hashes.tolist())
    assert (accepted.ts_ms == np.where(accepted.partition == 1, 8, 7)).all() and (landed.ts_ms == 5).all()
    assert (landed.partition[1:] >= landed.partition[:-1]).all()
    nothing = columns_of_frames([])
    assert judge(accepted, landed, nothing, {}).ok
    assert not judge(accepted, landed.take(landed.sequence > 0), nothing, {}).ok


def test_a_clean_record_that_breaks_its_contract_is_invented(settings, topics, producer):
    frame = encode_frame("dev-1", 1, b"{}")
    key, value = _clean(frame, 5)
    times = [(key, value.replace(b'"ts":5', b'"ts":' + ts)) for ts in (b"18446744073709551615", b'"5"', b"5.5", b"-1")]
    for wrong in ((b"dev-2", value), (key, value[:-1]), (key, b"[]"), (key, b""), (None, value), *times):
        producer.produce(topics.telemetry, wrong[1], wrong[0], partition=0)
    _produce_clean(producer, topics.telemetry, [frame], 3)
    verdict = judge(columns_of_frames([frame]), _read(settings, topics.telemetry), columns_of_frames([]), {})
    assert (verdict.invented, verdict.missing, verdict.doubled) == (9, 0, 0)


def test_dead_letters_carry_reason_and_stage(settings, topics, producer):
    rows = [(b"\xaa", Reason.TOO_SHORT, b"edge"), (encode_frame("d", 1, b"[]"), Reason.NOT_OBJECT, b"lane")]
    for frame, reason, stage in rows:
        headers = [("reason", reason.label.encode()), ("stage", stage), ("ts", b"12")]
        producer.produce(topics.dead_letter, frame, partition=1, headers=headers)
    assert producer.flush(30 * PATIENCE) == 0
    dead = _read(settings, topics.dead_letter)
    assert dead.hashes.tolist() == columns_of_frames([frame for frame, *_ in rows]).hashes.tolist()
    assert dead.reason.tolist() == [Reason.TOO_SHORT, Reason.NOT_OBJECT]
    assert (dead.lane.tolist(), dead.ts_ms.tolist()) == ([False, True], [12, 12])


@pytest.mark.parametrize("ts", [b"x", b"", None, b"-1", b"9" * 30, "²".encode()])
def test_dead_letters_of_another_program_have_no_time(settings, topics, producer, ts):
    producer.produce(topics.dead_letter, b"x", partition=1, headers=[("reason", None), ("stage", None), ("ts", ts)])
    assert producer.flush(30 * PATIENCE) == 0
    dead = _read(settings, topics.dead_letter)
    assert (dead.lane.tolist(), dead.ts_ms.tolist(), dead.reason.tolist()) == ([False], [0], [0])


def test_a_partition_that_ends_in_a_control_record_is_read_through(settings, topics):
    name = settings.topic_prefix + "transaction"
    producer = Producer({**confluent_config(settings), "transactional.id": name})
    producer.init_transactions(30 * PATIENCE)
    producer.begin_transaction()
    frame = encode_frame("dev-1", 1, b"{}")
    _produce_clean(producer, topics.telemetry, [frame], 3)
    producer.commit_transaction(30 * PATIENCE)
    partition = partition_of(b"dev-1", 3)
    wait_for(lambda: end_offsets(settings, topics.telemetry)[partition] == 2, 10, "the record and the marker")
    assert _read(settings, topics.telemetry).count == 1
    assert read_topic_columns(settings, topics.telemetry, {partition: 1}, {partition: 2}).count == 0


def test_only_the_asked_offsets_are_read(settings, topics, producer):
    frames = [encode_frame("dev-1", n, b"{}") for n in range(10)]
    partition = partition_of(b"dev-1", 3)
    _produce_clean(producer, topics.telemetry, frames, 3)
    read = read_topic_columns(settings, topics.telemetry, {partition: 3}, {partition: 7})
    assert read.sequence.tolist() == [3, 4, 5, 6]
    assert offsets_at(settings, topics.telemetry, 0)[partition] == 0
    ahead_ms = int(time.time() * 1000) + 3_600_000
    assert offsets_at(settings, topics.telemetry, ahead_ms)[partition] == 10


def test_a_missing_topic_is_told(settings):
    with pytest.raises(KafkaUnavailable, match="there is no topic"):
        end_offsets(settings, settings.topic_prefix + "absent")


def test_the_command_checks_a_manifest(settings, topics, producer, tmp_path, monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5 * PATIENCE)
        frames = []
        thread = threading.Thread(target=lambda: frames.extend(receiver.recv(65_536) for _ in range(400)))
        thread.start()
        command = ["simulate", "--rate", "2000", "--count", "400", "--devices", "30", "--malformed", "0.1"]
        command += ["--duplicates", "0.1", "--reorder", "0.1", "--manifest", str(tmp_path / "m"), "--quiet"]
        command += ["--to", f"127.0.0.1:{receiver.getsockname()[1]}"]
        assert CliRunner().invoke(main, command).exit_code == 0
        thread.join()
    for name, value in (("KAFKA_BOOTSTRAP", settings.bootstrap), ("TOPIC_PREFIX", settings.topic_prefix)):
        monkeypatch.setenv(f"KLAIS_{name}", value)
    kind = read_manifest(tmp_path / "m").kind
    good = [frame for frame, k in zip(frames, kind, strict=True) if k < DUPLICATE]
    now_ms = int(time.time() * 1000)
    _produce_clean(producer, topics.telemetry, good[:-1], 3, now_ms)
    check = ["simulate", "check", "--manifest", str(tmp_path / "m"), "--wait", "0s", "--json"]
    early = CliRunner().invoke(main, check)
    verdict = json.loads(early.stdout)
    assert early.exit_code == 1 and (verdict["missing"], verdict["landed"]) == (1, len(good) - 1)
    assert verdict["out_of_order"] == verdict["invented"] == 0
    assert CliRunner().invoke(main, [*check, "--allow-missing", "1"]).exit_code == 0
    _produce_clean(producer, topics.telemetry, good[-1:], 3, now_ms)
    late = CliRunner().invoke(main, check[:-1])
    assert late.exit_code == 0 and late.output.endswith("OK\n")
    _produce_clean(producer, topics.telemetry, good[:1], 3, now_ms)
    assert json.loads(CliRunner().invoke(main, check).stdout)["doubled"] == 1
