"""Bytes on the broker's disk that changed: record batches with a wrong CRC stop no worker, and are counted as lost."""

import urllib.request
from pathlib import Path

from klais.kafka.topics import Topics
from tests.support.fault_harness import Worker
from tests.support.lanes import Edge, landed
from tests.support.process import HTTP_S, wait_for
from tests.support.segments import damage
from tests.support.stage import stage

FRAMES = 5  # of each record of klais_raw


def lost_records(worker: Worker) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=HTTP_S) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("klais_lost_records_total"))


def test_damaged_batches_of_klais_raw_are_left_out_and_counted(tmp_path: Path) -> None:
    with stage(partitions=1) as it:
        edge, topic = Edge(it.settings), Topics.of(it.settings).raw
        for _ in range(12):
            edge.send()
        places = [damage(it.settings, topic, offset) for offset in (0, 6, 7, 11)]  # the first, two in a row, the last
        gone = sum(end - start for start, end in places)
        assert gone == 4
        worker = it.worker(tmp_path / "worker.log")
        worker.wait_ready()
        edge.send()  # behind the damaged one at the end
        wanted = edge.sent - FRAMES * gone

        def all_there() -> bool:
            assert worker.process.poll() is None, worker.tail()
            return sum(landed(it.settings).values()) >= wanted

        wait_for(all_there, 60, lambda: f"{wanted} frames landed; the worker's log ends:\n{worker.tail()}")
        assert landed(it.settings).most_common(1)[0][1] == 1 and len(landed(it.settings)) == wanted
        wait_for(lambda: lost_records(worker) == gone, 30, "the records are counted as lost")
        assert "record_batch_corrupt" in worker.log.read_text()

        # The last batch of a log that nobody appends to: the worker waits at its end and takes what comes.
        damage(it.settings, topic, 12)
        worker.kill()
        again = it.worker(tmp_path / "again.log")
        again.wait_ready()
        edge.send(3)
        wait_for(lambda: len(landed(it.settings)) == wanted + 3 * FRAMES, 60, lambda: f"the rest:\n{again.tail()}")
        assert again.stop() == 0
