"""Client of a worker's web views, for the commands."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

import click

from klais.cli.servers import edge_of, token_fix, worker_of
from klais.cli.waiting import notice_after
from klais.config.quick import load_quick
from klais.config.settings import SettingsFields
from klais.errors import KlaisError, WorkerUnavailable
from klais.http import client
from klais.http.tokens import token_to_change, token_to_read
from klais.system import small_json
from klais.system.connect import reason_of

TIMEOUT_S = 10.0
MAX_ROWS = 500  # of one page of devices
TAP_SESSION_S = 300.0  # clocks may differ by as much
MAX_INCIDENTS = 200  # of one page

_TAPS = {"worker": "/api/v1/tap", "edge": "/tap"}
COMPLETE_S = 0.3
WAIT_S, MAX_WAITS = 0.5, 10
_PLAIN = re.compile(r"[A-Za-z0-9._:@+][A-Za-z0-9._:@+-]*")  # text that every shell takes as one plain word

URL = click.option("--url", metavar="URL", help="Worker to query.  [default: KLAIS_WEB_BIND:KLAIS_WEB_PORT]")


class WorkerViews:
    """A client of one worker's views.

    Parameters
    ----------
    url : str
        ``http://host:port``.
    read_token, change_token : str or None
        Tokens for the worker, if it requires them.
    timeout_s : float
        Timeout of one response.
    origin : str
        Which option or setting names the server, for messages.
    kind : "worker" or "edge"
        What it is, for messages and for where its tap is.
    """

    def __init__(
        self,
        url: str,
        read_token: str | None,
        change_token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        origin: str = "",
        kind: Literal["worker", "edge"] = "worker",
    ) -> None:
        self.kind = kind
        self.url = url.rstrip("/")
        self._where = f"{self.url} ({origin})" if origin else self.url
        self._read_token, self._change_token = read_token, change_token
        self._timeout_s = timeout_s

    @classmethod
    def of(
        cls,
        url: str | None,
        settings: SettingsFields | None = None,
        timeout_s: float = TIMEOUT_S,
        kind: Literal["worker", "edge"] = "worker",
    ) -> "WorkerViews":
        """The worker (or edge) at ``url``, or the one of the settings.

        Only the one of the settings gets the token of the state folder.
        """
        settings = settings or load_quick()
        worker = worker_of(settings, url) if kind == "worker" else edge_of(settings, url)
        tokens = token_to_read(settings, worker.own), token_to_change(settings, worker.own)
        return cls(worker.url, *tokens, timeout_s, worker.origin, kind)

    def get(self, path: str, **params: str | int | None) -> Any:
        """The JSON body of a page; parameters that are None are omitted.

        Raises
        ------
        WorkerUnavailable
            If the server does not respond, is not a worker, or refuses; the message says which and what to do.
        """
        given = {name: value for name, value in params.items() if value is not None}
        return self._ask(path + ("?" + urlencode(given) if given else ""))

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of the page's stream, one per second, until the worker ends it; errors as :meth:`get`."""
        for _, event in self._stream("/api/v1/stream", self._read_token):
            yield event

    def tap(self, params: dict[str, str | int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and sample of each second of a tap, until the worker ends it; errors as :meth:`get`.

        This also queries other workers than that of the settings. They do not get the token, but a session that expires
        within minutes.
        """
        from klais.http.access import digest
        from klais.http.session import COOKIE, sign

        headers = {}
        if self._change_token is not None:
            headers["Cookie"] = f"{COOKIE}={sign(digest(self._change_token), 'klais tap', for_s=TAP_SESSION_S)}"
        yield from self._stream(_TAPS[self.kind] + "?" + urlencode(params), None, headers)

    def of_worker(self, url: str) -> "WorkerViews":
        """The same client for another worker of the system."""
        return WorkerViews(url, self._read_token, self._change_token, self._timeout_s, f"as {self.url} says")

    def _stream(
        self, path: str, token: str | None, headers: dict[str, str] | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            for line in self._events(client.lines(self.url + path, self._timeout_s, token, headers)):
                if line.startswith(b"id: "):
                    number = int(line[4:])
                if line.startswith(b"data: "):
                    event = small_json.loads(line[6:])
                    if not isinstance(event, dict):
                        raise ValueError("it does not send a KLAIS event")
                    yield number, event
        except client.Refused as error:
            found = None
            with contextlib.suppress(ValueError):
                found = small_json.loads(error.body)
            raise WorkerUnavailable(self._refusal(error.status, found)) from None
        except (OSError, ValueError) as error:
            raise self.unavailable(error) from None

    def _events(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        with notice_after(self._patience()):
            first = next(lines, None)
        if first is not None:
            yield first
            yield from lines

    def _patience(self) -> str:
        return f"no answer yet from the {self.kind} at {self._where}: waiting up to {self._timeout_s:g} s"

    def put(self, path: str, body: dict[str, Any]) -> Any:
        """Send a change; errors as :meth:`get`."""
        return self._ask(path, json.dumps(body).encode())

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        token = self._read_token if body is None else self._change_token
        method = None if body is None else "PUT"
        try:
            with notice_after(self._patience()):
                status, data = client.request(self.url + path, self._timeout_s, body, token, method=method)
            for _ in range(MAX_WAITS if self._timeout_s > WAIT_S else 0):
                if status != 429 or body is not None:
                    break
                time.sleep(WAIT_S)  # it limits requests per second from one address, which many pages exceed
                status, data = client.request(self.url + path, self._timeout_s, None, token)
        except (OSError, ValueError) as error:
            raise self.unavailable(error) from None
        try:
            found = small_json.loads(data)
        except ValueError:
            found = None
        if status != 200:
            raise WorkerUnavailable(self._refusal(status, found))
        if not isinstance(found, dict):
            raise WorkerUnavailable(f"the server at {self._where} is not a KLAIS worker: no JSON object at {path}")
        return found

    def unavailable(self, error: Exception) -> WorkerUnavailable:
        """The error to show if the server does not respond."""
        fix = f"start one with `klais {self.kind}` or `klais up`, or name another one with --url"
        why = reason_of(error, self.url.startswith("https:"))
        return WorkerUnavailable(f"no {self.kind} answers at {self._where}: {why}. To fix it, {fix}")

    def _refusal(self, status: int, found: Any) -> str:
        reason = found.get("error") if isinstance(found, dict) else None
        if reason is None:
            return f"the server at {self._where} is not a KLAIS {self.kind} ({status}): name one with --url"
        return f"the {self.kind} at {self._where} responds with {status}: {reason}{token_fix(status)}"

    def device(self, device_id: str, page: str = "") -> Any:
        """The worker's state of a device; ``page`` is ``why/`` or empty."""
        return self.get(f"/devices/{quote(device_id, safe='')}/{page}")

    def incident(self, incident_id: str) -> Any:
        """One incident."""
        return self.get(f"/incidents/{incident_id}/")

    def incidents(self, max_count: int | None, after: str | None = None, **params: str | int | None) -> Iterator[Any]:
        """Pages of ``/incidents/``, with at most ``max_count`` incidents in total."""
        left = max_count
        while left is None or left > 0:
            page = self.get("/incidents/", size=min(left or MAX_INCIDENTS, MAX_INCIDENTS), after=after, **params)
            if after is not None and page["next"] == after:
                return
            yield page
            left = None if left is None else left - len(page["items"])
            after = page["next"]
            if after is None:
                return

    def devices(self, max_count: int | None, after: str | None = None, **params: str | int | None) -> Iterator[Any]:
        """Pages of ``/devices/`` over all workers, with at most ``max_count`` devices in total."""
        left = max_count
        while left is None or left > 0:
            size = MAX_ROWS if left is None else min(left, MAX_ROWS)
            page = self.get("/devices/", scope="all", size=size, after=after, **params)
            if after is not None and page["next"] == after:  # recorded figures: the same page for every request
                return
            page["items"] = page["items"][:left]
            yield page
            left = None if left is None else left - len(page["items"])
            after = page["next"]
            if after is None:
                return


def lacks(pages: Sequence[dict[str, Any]]) -> str | None:
    """What pages of devices lack, as a sentence; None if every worker has responded and all lanes are live."""
    workers, partitions = (
        sorted({str(name) for page in pages for name in page.get(key) or ()})
        for key in ("workers_missing", "partitions_missing")
    )
    missing = [f"workers that do not respond ({', '.join(workers)})"] if workers else []
    missing += [f"partitions whose lanes are not live ({', '.join(sorted(partitions, key=len))})"] if partitions else []
    return f"the list lacks the devices of {' and of '.join(missing)}; try again" if missing else None


def complete_device_id(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Device ids with this prefix, for shell completion; none if no worker responds.

    Devices choose their ids, and a shell does not quote completions: only plain words are offered.
    """
    params: dict[str, str | int | None] = {"sort": "device_id", "size": MAX_ROWS, "scope": "all"}
    try:
        found = WorkerViews.of(None, timeout_s=COMPLETE_S).get("/devices/", q=incomplete or None, **params)
    except KlaisError:
        return []
    items = found.get("items", []) if isinstance(found, dict) else []
    names = [str(item.get("device_id")) for item in items if isinstance(item, dict)]
    return [name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)]
