"""A process may end while Kafka has not answered its questions."""

import contextlib
import subprocess
import sys
import threading
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from klais.config.load import Settings
from klais.kafka.admin_client import admin_client

# When the interpreter is gone, the process waits for the end of its input; meanwhile the question fails.
ENDS = """
import ctypes, threading
from klais.config.load import Settings
from klais.kafka import admin_client as module
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

module.END_S = 600
libc = ctypes.CDLL(None)
getattr(libc, "__cxa_atexit")(libc.getchar, None, None)
asked = threading.Event()

def ask():
    client = module.admin_client(Settings(kafka_bootstrap="127.0.0.1:1"))
    answers = client.list_offsets({TopicPartition("x", 0): OffsetSpec.latest()}, request_timeout=0.5)
    asked.set()
    for answer in answers.values():
        answer.exception()

threading.Thread(target=ask, daemon=True).start()
asked.wait()
print("ends", flush=True)
"""


def test_an_answer_behind_the_end_of_the_interpreter_is_no_crash() -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ends\n"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(3)  # longer than the question takes to fail, where nobody waited for it
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()


def test_a_request_that_blocks_its_thread_does_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, go_on = threading.Event(), threading.Event()

    def list_topics(*_: Any, **__: Any) -> None:
        waits.set()
        go_on.wait()

    monkeypatch.setattr(AdminClient, "list_topics", list_topics)
    client = admin_client(Settings(kafka_bootstrap="127.0.0.1:1"))
    blocked = threading.Thread(target=client.list_topics, daemon=True)
    blocked.start()
    assert waits.wait(60)
    asked = threading.Event()

    def ask() -> None:
        client.list_offsets({TopicPartition("x", 0): OffsetSpec.latest()}, request_timeout=0.1)
        asked.set()

    threading.Thread(target=ask, daemon=True).start()
    try:
        assert asked.wait(60)
    finally:
        go_on.set()
        blocked.join()
