"""The other workers: which one owns a partition, by Faust's table route, and requests to them."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from klais.http.errors import HttpError
from klais.system import shallow_json
from klais.telemetry.log import get

log = get("klais.worker.web")

FORWARDED = "X-Klais-Forwarded"
"""Header of requests from worker to worker. Such a request is answered here or refused, never forwarded again."""
OWNER = "X-Klais-Owner"
TIMEOUT_S = 5.0
MAX_BYTES = 16 << 20


class Peers:
    """The workers of the group as of the last rebalance.

    Parameters
    ----------
    app : faust.App
        Its router knows which worker holds which partition of the table's changelog.
    table, topic : str
        Name of the table, and of its changelog topic.
    token : str or None
        Token for read access among the workers.
    """

    def __init__(self, app: Any, table: str, topic: str, token: str | None = None) -> None:
        self._app, self._table, self._topic = app, table, topic
        self._token = token

    @property
    def own_url(self) -> str:
        """Address of this worker for other workers."""
        return str(self._app.conf.canonical_url).rstrip("/")

    def partitions(self) -> dict[str, list[int]]:
        """Partitions of each worker, by its address."""
        hosts = self._app.router.table_metadata(self._table)
        return {str(url).rstrip("/"): sorted(topics.get(self._topic, ())) for url, topics in hosts.items()}

    def others(self) -> list[str]:
        """Addresses of the other workers that own partitions."""
        return sorted(url for url, owned in self.partitions().items() if owned and url != self.own_url)

    def owner(self, partition: int) -> str | None:
        """Address of the worker that owns a partition, or None if there is none."""
        return next((url for url, owned in self.partitions().items() if partition in owned), None)

    async def forward(
        self, request: web.Request, partition: int, more: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Forward a request to the worker that owns ``partition``, with ``more`` headers, and return its response.

        Raises
        ------
        HttpError
            503, if no worker owns the partition now, or its owner does not answer.
        """
        owner = self.owner(partition)
        if owner is None or owner == self.own_url or FORWARDED in request.headers:
            text = f"partition {partition} is being taken over: try again in a moment"
            raise HttpError(503, "partition_moving", text, partition=partition, owner=owner)
        status, body = await self._get(owner + request.rel_url.raw_path_qs, more)
        headers = {OWNER: owner}
        return web.Response(body=body, status=status, content_type="application/json", headers=headers)

    async def gather(self, path_qs: str) -> dict[str, dict[str, Any] | None]:
        """JSON objects of all other workers for a path, by address; None for a worker without a valid response."""
        urls = self.others()
        answers = await asyncio.gather(*(self._get(url + path_qs) for url in urls), return_exceptions=True)
        out: dict[str, dict[str, Any] | None] = {}
        for url, answer in zip(urls, answers, strict=True):
            out[url] = _object(answer[1]) if isinstance(answer, tuple) and answer[0] == 200 else None
        return out

    async def _get(self, url: str, more: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        headers = {FORWARDED: self.own_url} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        headers |= more or {}
        try:
            return await fetch(self._app.http_client, url, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            log.warning("worker_unreachable", url=url, error=reason)
            text = f"the worker that owns this does not answer ({reason})"
            raise HttpError(503, "owner_unreachable", text, owner=str(URL(url).origin())) from error


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = shallow_json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


async def fetch(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body of another worker's response, without proxy and redirects, and bounded in size and time.

    Raises
    ------
    aiohttp.ClientError, TimeoutError
        If it does not answer, or its response is larger than 16 MiB.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    if session.trust_env:
        raise aiohttp.ClientError("the session would use the environment's proxy, which would see the token")
    data = bytearray()
    async with session.get(URL(url, encoded=True), headers=headers, timeout=timeout, allow_redirects=False) as answer:
        async for chunk in answer.content.iter_any():
            data += chunk
            if len(data) > MAX_BYTES:
                raise aiohttp.ClientPayloadError(f"the response is larger than {MAX_BYTES} bytes")
    return answer.status, bytes(data)
