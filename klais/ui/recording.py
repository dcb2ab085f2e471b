"""Recorded figures: responses of a running worker, to show the page without Kafka.

A recording is gzipped JSON: ``history`` (columns), ``events`` (bodies of the stream, one per second) and ``pages``
(bodies by path). On playback, times are shifted so that the recording ends now.
"""

import asyncio
import gzip
import io
import re
import time
import zlib
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import orjson

from klais.errors import KlaisError
from klais.http.client import lines, request
from klais.system import shallow_json
from klais.system.clock import LATEST_MS, now_ms
from klais.ui.sample import SERIES

VERSION = 1
MAX_BYTES = 64 << 20
LISTS = (
    *("/devices/?scope=all&size=200", "/anomalies/?scope=all&size=100", "/incidents/", "/control/", "/topics/"),
    *("/health", "/api/v1/audit?limit=200"),
)
UNHEALTHY = ("/health", 503)
MAX_DEVICES = 20


class RecordingError(KlaisError):
    """A file is not a recording, or a worker cannot be recorded."""


def record(base: str, seconds: float, token: str | None = None) -> bytes:
    """Record the worker at ``base`` (``http://host:port``) for ``seconds``, and return the bytes of the recording.

    Raises
    ------
    RecordingError
        If the worker does not respond, or not with JSON.
    """
    events = _events(base, seconds, token)
    history = _get(base, "/api/v1/history?seconds=900", token)
    pages = {path.partition("?")[0]: _get(base, path, token) for path in LISTS}
    listed = [item["device_id"] for page in ("/devices/", "/anomalies/") for item in pages[page]["items"][:MAX_DEVICES]]
    for device_id in dict.fromkeys(listed + _overridden(events[-1])):
        for tail in ("/", "/why/"):
            path = f"/devices/{quote(device_id, safe='')}{tail}"
            status, body = _ask(base, path, token)
            if status == 200:  # a blocked device may be unknown to all workers, and a lane may be recovering
                pages[path] = body
    whole = {"version": VERSION, "history": history, "events": events, "pages": pages}
    return gzip.compress(orjson.dumps(whole), 9, mtime=0)


def _overridden(event: Any) -> list[str]:
    """Devices that are blocked or have their own limits: the page links to them."""
    scopes = (row["scope"] for row in event["control"]["overrides"])
    return [scope.removeprefix("device/") for scope in scopes if scope.startswith("device/")][:MAX_DEVICES]


def _get(base: str, path: str, token: str | None) -> Any:
    status, body = _ask(base, path, token)
    if status != 200 and (path, status) != UNHEALTHY:
        raise RecordingError(f"{base}{path} responds with {status}: {orjson.dumps(body)[:200].decode()}")
    return body


def _ask(base: str, path: str, token: str | None) -> tuple[int, Any]:
    try:
        status, data = request(base + path, 10.0, token=token)
        return status, shallow_json.loads(data)
    except (OSError, ValueError) as error:
        raise RecordingError(f"{base}{path} cannot be read: {error}") from error


def _events(base: str, seconds: float, token: str | None) -> list[Any]:
    out: list[Any] = []
    until_s = time.monotonic() + seconds
    try:
        for line in lines(base + "/api/v1/stream", 10.0, token):
            if line.startswith(b"data: "):
                out.append(shallow_json.loads(line[6:]))
            if time.monotonic() >= until_s:
                break
    except (OSError, ValueError) as error:
        raise RecordingError(f"the stream of {base} cannot be read: {error}") from error
    if not out:
        raise RecordingError(f"the stream of {base} sent no event within {seconds:g} s")
    return out


class Recording:
    """A recording in an endless loop, in place of a :class:`klais.ui.feed.Feed`.

    Parameters
    ----------
    data : bytes
        The result of :func:`record`.

    Raises
    ------
    RecordingError
        If it is not a valid recording.
    """

    def __init__(self, data: bytes) -> None:
        try:
            found = shallow_json.loads(_unpacked(data))
            if found["version"] != VERSION:
                raise RecordingError(f"this is a recording of version {found['version']}, not {VERSION}")
            _check(found)
            self._events: list[dict[str, Any]] = found["events"]
            self._history: dict[str, list[float]] = found["history"]
            self.pages: dict[str, Any] = found["pages"]
            self._ends_ms = int(self._events[-1]["at_ms"])
        except (AttributeError, ValueError, KeyError, TypeError, IndexError, OSError, EOFError, zlib.error) as error:
            raise RecordingError(f"this is not a recording of `klais ui record`: {error!r}") from error
        self._began_ms = now_ms()
        self.history = self

    async def run(self) -> None:
        """Do nothing: there is nothing to sample."""
        await asyncio.Event().wait()

    async def ready(self) -> None:
        """Return immediately: the history is available from the start."""

    def event(self) -> tuple[int, bytes]:
        """The event of this second."""
        now = now_ms()
        recorded = self._events[(now - self._began_ms) // 1000 % len(self._events)]
        return now, orjson.dumps(_moved(recorded, now - int(recorded["at_ms"])))

    def page(self, path: str) -> Any:
        """The body of a page with shifted times; None if it is not recorded."""
        return _moved(self.pages[path], now_ms() - self._ends_ms) if path in self.pages else None

    def devices(self) -> list[str]:
        """Devices with recorded details."""
        details = (path.split("/") for path in self.pages if path.endswith("/why/"))
        return [unquote(parts[2]) for parts in details]

    async def audit(self, max_count: int) -> list[dict[str, Any]]:
        """The newest changes."""
        recorded = self.page("/api/v1/audit")
        return recorded["changes"][:max_count] if recorded else []

    def since(self, after_ms: int = 0, seconds: int = 900) -> dict[str, list[Any]]:
        """The recorded history, shifted so that it ends at the start of the playback."""
        recorded = self._history["at_ms"]
        moved = [int(at_ms) - int(recorded[-1]) + self._began_ms for at_ms in recorded]
        kept = [i for i, at_ms in enumerate(moved) if at_ms > after_ms][-seconds:]
        out: dict[str, list[Any]] = {"at_ms": [moved[i] for i in kept]}
        return out | {name: [self._history[name][i] for i in kept] for name in SERIES if name in self._history}


def _check(found: dict[str, Any]) -> None:
    """Check that a recording has all parts that the playback needs."""
    events, history, pages = found["events"], found["history"], found["pages"]
    times = [*history["at_ms"], *(event["at_ms"] for event in events)]
    lengths = {len(series) for series in history.values()}
    changes = pages.get("/api/v1/audit", {"changes": []})["changes"]
    if not (isinstance(events, list) and isinstance(pages, dict) and isinstance(changes, list)):
        raise TypeError("events, pages or changes have the wrong type")
    if not events or lengths != {len(history["at_ms"])} or lengths == {0}:
        raise ValueError("no events, or series of different lengths")
    if not all(isinstance(at, int | float) and 0 <= at < LATEST_MS for at in times):
        raise ValueError("invalid times")


_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_EPOCH_MS = ("at", "at_ms", "until_ms", "limits_until_ms", "opened_at", "newest_at", "closed_at")


def _moved(value: Any, by_ms: int, name: str = "") -> Any:
    """A body with all times shifted, including those in sentences."""
    if isinstance(value, dict):
        return {key: _moved(item, by_ms, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, by_ms, name) for item in value]
    if isinstance(value, str):
        return _ISO.sub(lambda found: _later(found[0], by_ms), value)
    if name in _EPOCH_MS and isinstance(value, int | float) and 0 <= value < LATEST_MS:
        return value + by_ms
    return value


def _later(iso: str, by_ms: int) -> str:
    try:
        moved = datetime.fromisoformat(iso) + timedelta(milliseconds=by_ms)
    except (ValueError, OverflowError):
        return iso  # it only looks like a time
    return moved.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unpacked(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        body = packed.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise RecordingError(f"the recording is larger than {MAX_BYTES >> 20} MiB")
    return body


def load_demo() -> Recording:
    """The recording in the package of KLAIS."""
    return Recording(files("klais.ui").joinpath("demo.json.gz").read_bytes())


def load(path: Path) -> Recording:
    """A recording from a file."""
    try:
        return Recording(path.read_bytes())
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror}") from error
