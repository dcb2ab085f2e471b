"""The client for requests about topics, offsets and groups, whose answers do not crash a process that ends."""

import atexit
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any
from weakref import WeakSet

from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.kafka.clients import confluent_config

END_S = 2.0  # how long an ending process waits for answers: without a broker they may take longer
_asking = threading.Lock()
_open: WeakSet[Future[Any]] = WeakSet()  # requests without an answer yet
_ends = False
# These may take as long as their time-out: the requests of other threads, and the end of the process, must not wait.
_BLOCKING = frozenset({"list_topics", "list_groups", "cluster_id"})


class _Admin(AdminClient):
    """Tracks its open requests.

    A thread of librdkafka acquires the interpreter to deliver an answer. If the interpreter has been finalized, that
    causes a segmentation fault in place of the exit code of a process that has done all its work. So before
    finalization, this class waits for the requests of daemon threads, and blocks new ones. Methods that wait for their
    answer themselves are not affected.
    """


def _counted(ask: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(ask)
    def asked(*args: Any, **options: Any) -> Any:
        with _asking:
            if not _ends:
                answer = ask(*args, **options)
                found = answer.values() if isinstance(answer, dict) else (answer,)
                _open.update(one for one in found if isinstance(one, Future))
                return answer
        threading.Event().wait()  # a daemon thread, at the end of the process
        return None

    return asked


for _name, _ask in vars(AdminClient).items():
    if callable(_ask) and not _name.startswith("_") and _name not in _BLOCKING:
        setattr(_Admin, _name, _counted(_ask))


@atexit.register
def _wait_for_answers() -> None:
    global _ends
    with _asking:
        _ends = True
        left = [one for one in _open if not one.done()]
    wait(left, END_S)


def admin_client(settings: Settings, on_error: Callable[[KafkaError], None] = lambda error: None) -> AdminClient:
    """An AdminClient of the cluster. It does not log unavailable brokers: callers report them with more context."""
    unlogged: dict[str, Any] = {"log_level": 0, "error_cb": on_error}
    return _Admin({**confluent_config(settings), **unlogged, "client.id": "klais-admin"})
