"""A real Chromium for tests of the page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.needs import need_missing

# Without these Chromium contacts its vendor's servers at every start.
ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WAIT_MS = 120_000  # until a thing is there; no test is that slow, a busy machine may be


def chromium() -> str:
    """Path of the browser. Without one the test skips, or fails if ``KLAIS_REQUIRE`` names it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        need_missing("browser", "no chromium on PATH (make setup)")
    return found


@contextmanager
def browser() -> Iterator[Any]:
    """A Playwright browser that closes with the block."""
    path = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        need_missing("browser", str(error))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=WAIT_MS)
        try:
            yield started
        finally:
            started.close()


class Watched:
    """A tab that records its errors, policy violations and requests."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("console", self._console)
        page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"console: {message.text}")

    def hosts(self) -> set[str]:
        """Origins that the tab requested."""
        return {"/".join(url.split("/")[:3]) for url in self.requests if url.startswith("http")}
