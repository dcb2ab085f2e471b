"""A process may end while Kafka has not answered its questions."""

import contextlib
import subprocess
import sys

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
