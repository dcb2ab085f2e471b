"""Faust's web server as ours: the app makes ours, our pages stand before Faust's, and connections are bounded."""

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from faust.web.drivers import aiohttp as driver

from agents.faust_ext.web import App, BoundedWeb
from klais.http.connections import ConnectionLimits, Listener
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.worker.web.pages import install
from tests.support.ports import free_port
from tests.support.views import PARTITIONS, fake_lane, make_views


def test_what_is_overridden_is_there() -> None:
    for name in ("start_server", "stop_server"):
        assert asyncio.iscoroutinefunction(getattr(driver.Web, name))
    assert callable(App._new_web)


async def test_the_apps_server_is_guarded_and_bounded() -> None:
    port = free_port()
    limits = ConnectionLimits(total=2, per_client=2)
    app: Any = App(
        "web-test", web_limits=limits, broker="kafka://127.0.0.1:1", store="memory://",
        web_bind="127.0.0.1", web_port=1,
        web_tables_enabled=False, web_router_enabled=False,
    )  # fmt: skip
    assert isinstance(app.web, BoundedWeb)
    install(app.web.web_app, make_views({p: fake_lane() for p in range(PARTITIONS)}), Guard(AllowedHosts("127.0.0.1")))
    app.web.init_server()
    assert app.web.cors
    app.conf.web_port = port  # as `faust worker --web-port` does, once the app is there
    await app.web.start_server()
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session:
            paths = {"/": "pages", "/health": "lanes", "/health/": "lanes", "/dam": "total", "/dam/": "total"}
            for path, page in paths.items():
                async with session.get(url + path) as answer:
                    assert answer.status == 200 and page in await answer.json(), path
                    assert answer.headers["Server"] == "klais"
            async with session.get(url + "/", headers={"Host": "evil.example"}) as answer:
                assert answer.status == 421
            for path in ("/table/", "/router/", "/nothing"):
                async with session.get(url + path) as answer:
                    assert answer.status == 404, path
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        refused = [await reader.read(100) for reader, _ in held[2:]]
        assert refused[0].startswith(b"HTTP/1.1 503 ")
        for _, writer in held:
            writer.close()
    finally:
        await app.web.stop_server()
    assert len(app.web.listener.connections) == 0


async def test_a_clean_stop_does_not_wait_for_a_handler() -> None:
    app, called = web.Application(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        called.set()
        await asyncio.sleep(3600)
        return web.Response()

    app.router.add_get("/", slow)
    listener = Listener(app, "127.0.0.1", 0, ConnectionLimits())
    port = await listener.start()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    await asyncio.wait_for(called.wait(), 60)
    await asyncio.wait_for(listener.stop(), 60)
    writer.close()
