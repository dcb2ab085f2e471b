"""A language model in a separate process, with bounded queue, timeout, memory limit and circuit breaker.

The process is started at the first request, runs at the lowest priority and ends with its owner. If the queue is full,
the breaker is open or there is no model, a request fails immediately with :class:`ModelUnavailable`. A process that
does not respond in time is killed. After three consecutive failures the breaker is open for a minute, then one request
probes.
"""

import json
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from klais.config.fields import environ_without_settings
from klais.errors import ModelUnavailable
from klais.system import shallow_json
from klais.system.private_files import not_ours
from klais.system.processes import python_module
from klais.telemetry import log as logs

log = logs.get("klais.language.client")

QUEUE = 4  # waiting and running requests; further ones are refused
TIMEOUT_S = 10.0  # for an answer
START_S = 60.0  # for the load of a model
FAILURES, OPEN_S = 3, 60.0
MAX_LINE_BYTES = 1 << 16
LOG_ERROR = " E "  # between time and text, in llama.cpp's log
MEMORY = 1 << 30  # address space in addition to twice the file size: weights, and possibly a reordered copy

Clock = Callable[[], float]


class Breaker:
    """Open after three consecutive failures; after a minute one request may probe.

    Examples
    --------
    >>> breaker = Breaker()
    >>> for _ in range(3):
    ...     breaker.failed(0.0)
    >>> breaker.allows(59.0), breaker.allows(60.0), breaker.allows(60.1)
    (False, True, False)
    """

    def __init__(self) -> None:
        self._failures, self._open_until_s = 0, 0.0

    def allows(self, now_s: float) -> bool:
        """Whether to send a request now; a permitted probe closes the breaker for others."""
        if self._failures < FAILURES:
            return True
        if now_s < self._open_until_s:
            return False
        self._open_until_s = now_s + OPEN_S
        return True

    def failed(self, now_s: float) -> None:
        """Record a failed request."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._open_until_s = now_s + OPEN_S

    def worked(self) -> None:
        """Record a successful request."""
        self._failures = 0


class LanguageModel:
    """Client of one model; its methods may be called from any thread.

    Parameters
    ----------
    path : Path
        A GGUF file.
    digest : str
        Its SHA-256 if a card has it, else empty.
    observe : callable
        Called with the duration of each answer (s).
    timeout_s : float
        Timeout of one answer.
    is_own : bool
        Whether it has the small vocabulary of KLAIS.
    max_bytes : int, optional
        Address space of the process; default: an estimate from the size of the model. Beyond it the process fails.
    """

    def __init__(
        self,
        path: Path,
        digest: str = "",
        observe: Callable[[float], None] = lambda seconds: None,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = time.monotonic,
        is_own: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self._path, self._digest, self._observe, self._timeout_s = path, digest, observe, timeout_s
        self._clock, self._max_bytes = clock, max_bytes
        self._breaker, self._turn, self._room = Breaker(), threading.Lock(), threading.BoundedSemaphore(QUEUE)
        self._child: subprocess.Popen[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self._rest = b""
        self._asked = 0
        self.is_own = is_own

    def ask(self, task: str, **given: Any) -> str:
        """The model's text.

        Raises
        ------
        ModelUnavailable
            If there is no model, the queue is full, the breaker is open, or there is no answer in time.
        """
        if not self._room.acquire(blocking=False):
            raise ModelUnavailable(f"{QUEUE} requests are waiting")
        try:
            with self._turn:
                return self._ask(task, given)
        finally:
            self._room.release()

    def _ask(self, task: str, given: dict[str, Any]) -> str:
        if not self._breaker.allows(self._clock()):
            raise ModelUnavailable(f"it failed {FAILURES} times in a row: the next attempt is within {OPEN_S:.0f} s")
        try:
            if self._child is None or self._child.poll() is not None:
                self._start()
            began_s = self._clock()
            self._asked += 1
            self._write({"id": self._asked, "task": task, **given})
            answer = self._read(self._timeout_s)
            if answer.get("id") != self._asked or "text" not in answer:
                raise ModelUnavailable(str(answer.get("error", "unexpected answer")))
        except (OSError, ModelUnavailable) as error:
            self._breaker.failed(self._clock())
            self._end()
            if isinstance(error, ModelUnavailable):
                raise
            raise ModelUnavailable(f"its process ended: {error}") from error
        self._breaker.worked()
        self._observe(self._clock() - began_s)
        return str(answer["text"])

    def _start(self) -> None:
        self._end()
        info = self._path.stat()
        if problem := not_ours(info):
            raise ModelUnavailable(f"{self._path} is not used: {problem}. `chown` and `chmod go-w` it if it is yours")
        max_bytes = self._max_bytes or MEMORY + 2 * info.st_size
        kind = "own" if self.is_own else "any"
        command = python_module(
            "klais.language.child", str(self._path.resolve()), self._digest, kind, str(max_bytes)
        )  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="klais-llm-") as folder:
            said = Path(folder) / "stderr"
            self._spawn(command, said)
            try:
                first = self._read(START_S)
            except ModelUnavailable as error:
                raise ModelUnavailable(f"{error}{_reason(said)}") from error
            if not first.get("ready"):
                raise ModelUnavailable(f"{first.get('error', 'it does not start')}{_reason(said)}")
        log.info("language_model_ready", file=str(self._path), own=self.is_own)

    def _spawn(self, command: list[str], said: Path) -> None:
        pipe = subprocess.PIPE
        env = environ_without_settings()
        with said.open("wb") as stderr:
            self._child = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=stderr, start_new_session=True, env=env, cwd=said.parent
            )
        assert self._child.stdout is not None
        self._selector.register(self._child.stdout, selectors.EVENT_READ)

    def _write(self, message: dict[str, Any]) -> None:
        assert self._child is not None and self._child.stdin is not None
        self._child.stdin.write(json.dumps(message).encode() + b"\n")
        self._child.stdin.flush()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        """The next line as an object, within the timeout."""
        assert self._child is not None and self._child.stdout is not None
        until_s = self._clock() + timeout_s
        while b"\n" not in self._rest:
            left_s = until_s - self._clock()
            if left_s <= 0 or not self._selector.select(left_s):
                raise ModelUnavailable(f"no answer within {timeout_s:.0f} s")
            part = self._child.stdout.read1(MAX_LINE_BYTES)  # type: ignore[attr-defined]
            if not part or len(self._rest) > MAX_LINE_BYTES:
                raise ModelUnavailable("its process ended, or its output was too long")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            found = shallow_json.loads(line)
        except ValueError as error:
            raise ModelUnavailable("its answer was not JSON") from error
        return found if isinstance(found, dict) else {}

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def close(self) -> None:
        """End the process."""
        with self._turn:
            self._end()

    def _end(self) -> None:
        child, self._child, self._rest = self._child, None, b""
        if child is None:
            return
        assert child.stdin is not None and child.stdout is not None
        self._selector.unregister(child.stdout)
        child.send_signal(signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            try:
                pipe.close()
            except OSError as error:  # unread input of the process
                log.debug("pipe_not_flushed", error=str(error))


def _reason(path: Path) -> str:
    """The first error of llama.cpp, else the last line that the process wrote."""
    lines = path.read_text(errors="replace").splitlines()
    errors = [line.partition(LOG_ERROR)[2] for line in lines if LOG_ERROR in line]
    found = (errors or lines[-1:] or [""])[0].strip()
    return f" ({found[:300]})" if found else ""
