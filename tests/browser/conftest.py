"""The page on recorded figures in a real Chromium: one server for all tests of a process, one browser a module.

Playwright keeps an event loop running in its thread for as long as a browser is open, so the browser must be gone
before a test of another folder runs a loop of its own.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from klais.http.connections import Listener
from klais.ui.demo import demo_server
from klais.ui.recording import Recording, load_demo
from tests.support.browser import Watched, browser


class Served:
    """A server in a thread."""

    def __init__(self, server: Listener) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = server
        started = threading.Event()
        self.url = ""

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self.url = f"http://127.0.0.1:{self._loop.run_until_complete(self._server.start())}"
            started.set()
            self._loop.run_forever()
            self._loop.run_until_complete(self._server.stop())
            self._loop.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        started.wait()

    @classmethod
    def demo(cls, recording: Recording, port: int = 0) -> "Served":
        """The page on recorded figures."""
        return cls(demo_server(recording, "127.0.0.1", port))

    def stop(self) -> None:
        """End the server."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture(scope="session")
def recording() -> Recording:
    return load_demo()


@pytest.fixture(scope="session")
def demo(recording: Recording) -> Iterator[str]:
    served = Served.demo(recording)
    yield served.url
    served.stop()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def tab(chrome: Any) -> Iterator[Callable[..., Watched]]:
    """``tab(**options)``: a new tab in a context of its own, as ``Browser.new_context``."""
    contexts = []

    def make(**options: Any) -> Watched:
        context = chrome.new_context(**options)
        contexts.append(context)
        return Watched(context.new_page())

    yield make
    for context in contexts:
        context.close()
