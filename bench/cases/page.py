"""The live page: cost of 20 open pages for a worker, and response time deep in a table of 100,000 devices."""

import http.client
import statistics as stats
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from bench.cases.checkpoint import statistics
from bench.harness import Bench, BenchFailed, Child, get_json, wait_for
from bench.harness.feed import preload
from bench.harness.report import Result, rounded
from klais.config.load import Settings

STREAMS = 20
CONNECTIONS = 128  # one client may have a quarter of them
DEVICES = 100_000
FRAMES = 200_000
RATE = 20_000
PART_S = 10.0  # of each measurement; with and without pages alternate, so that a drift of the machine affects both
TURNS = 3
PAGE = 200
AROUND = 10  # neighbouring pages that are timed too: the same page again would come from a cache


class Streams:
    """Open pages: each reads the stream of events."""

    def __init__(self, port: int, count: int) -> None:
        self._counts, self._over = [0] * count, threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(port, k), daemon=True) for k in range(count)]

    @property
    def events(self) -> int:
        """Events that all of them have received so far."""
        return sum(self._counts)

    def start(self) -> None:
        """Open all pages, and wait until each has received an event."""
        for thread in self._threads:
            thread.start()
        wait_for(lambda: all(self._counts), 30, "all pages have their first event")

    def stop(self) -> None:
        """Close all."""
        self._over.set()
        for thread in self._threads:
            thread.join(15)

    def _read(self, port: int, k: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/api/v1/stream")
        answer = connection.getresponse()
        while not self._over.is_set() and (line := answer.readline()):
            self._counts[k] += line.startswith(b"data: ")
        connection.close()


@contextmanager
def open_pages(settings: Settings, count: int) -> Iterator[Streams]:
    """That many open pages."""
    streams = Streams(settings.web_port, count)
    streams.start()
    try:
        yield streams
    finally:
        streams.stop()


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("page")
    with bench.topics(api_connections=CONNECTIONS) as settings, bench.edge(settings):
        preload(settings, FRAMES, DEVICES)
        with bench.worker(settings) as worker:
            wait_for(lambda: _total(settings) == DEVICES, 60, f"{DEVICES:,} devices known")
            bench.say(f"page: {PAGE} pages of {DEVICES:,} devices, one after the other")
            result.repeat("page_200_ms", _pages(settings))
            bench.say(f"page: {STREAMS} open pages against none, without frames and at {RATE:,} frames/s")
            _idle(result, settings, worker)
            _loaded(bench, result, settings, worker)
    result.notes.append(f"page_200_ms: pages {PAGE - AROUND} to {PAGE + AROUND} by cursor, the median")
    result.notes.append("own_turn_ms: CPU time of the loop's thread in its longest turn while the pages were open")
    return result


def _total(settings: Settings) -> int:
    body = get_json(f"http://127.0.0.1:{settings.web_port}/devices/?scope=all&size=1")
    return int(body["total"]) if body else 0


def _pages(settings: Settings) -> list[float]:
    after, took = "", []
    for number in range(1, PAGE + AROUND + 1):
        begin_s = time.monotonic()
        tail = f"&after={quote(after, safe='')}" if after else ""
        body = get_json(f"http://127.0.0.1:{settings.web_port}/devices/?scope=all&size=100&sort=device_id{tail}")
        if body is None or len(body["items"]) != 100:
            raise BenchFailed(f"page {number} has not 100 devices")
        if number >= PAGE - AROUND:
            took.append((time.monotonic() - begin_s) * 1e3)
        after = body["next"]
    return took


def _part(worker: Child, settings: Settings) -> dict[str, float]:
    """CPU time of the worker (s) and frames that it processed in one part."""
    began_s, cpu_s, frames = time.monotonic(), worker.cpu_s(), _taken(settings)
    time.sleep(PART_S)
    elapsed_s = time.monotonic() - began_s
    cpu_s, frames = worker.cpu_s() - cpu_s, _taken(settings) - frames
    return {"cores": cpu_s / elapsed_s, "frames": frames, "us_per_frame": cpu_s * 1e6 / max(1, frames)}


def _taken(settings: Settings) -> int:
    body: Any = get_json(f"http://127.0.0.1:{settings.web_port}/dam/")
    if body is None:
        raise BenchFailed("the worker does not answer on /dam/")
    return int(body["total"]["conservation"]["received"])


def _turns(worker: Child, settings: Settings) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Parts without and with open pages, in turns."""
    without, pages = [], []
    for _ in range(TURNS):
        without.append(_part(worker, settings))
        with open_pages(settings, STREAMS) as streams:
            events = streams.events
            pages.append(_part(worker, settings))
            if streams.events - events < STREAMS * PART_S * 0.5:
                raise BenchFailed(f"{streams.events - events} events came to {STREAMS} pages in {PART_S:g} s")
    return without, pages


def _idle(result: Result, settings: Settings, worker: Child) -> None:
    without, pages = _turns(worker, settings)
    more = [b["cores"] - a["cores"] for a, b in zip(without, pages, strict=True)]
    result.repeat("more_cores", more)
    result.figures["idle_cores"] = rounded(stats.median(part["cores"] for part in without))


def _loaded(bench: Bench, result: Result, settings: Settings, worker: Child) -> None:
    seconds = int(2 * TURNS * (PART_S + 2) + 20)
    options = ("--devices", str(DEVICES), "--rate", str(RATE), "--for", f"{seconds}s")
    with bench.simulate(settings, *options):
        before = _taken(settings)
        wait_for(lambda: _taken(settings) > before + RATE, 60, "frames of the simulator", 0.5)
        began_ms = time.time() * 1e3
        without, pages = _turns(worker, settings)
        ended_ms = time.time() * 1e3
    if not all(part["frames"] for part in (*without, *pages)):
        raise BenchFailed("the simulator ended before the measurement")
    ratios = [b["us_per_frame"] / a["us_per_frame"] for a, b in zip(without, pages, strict=True)]
    result.repeat("cpu_per_frame_ratio", ratios)
    records = [r["gauges"] for r in statistics(settings) if began_ms < r["at_ms"] < ended_ms]
    if not records:
        raise BenchFailed("the worker wrote no statistics")
    result.figures |= {
        "own_turn_ms": rounded(max(r["event_loop_longest_own_block_ms"] for r in records)),
        "turn_ms": rounded(max(r["event_loop_longest_block_ms"] for r in records)),
        "cpu_us_per_frame": rounded(stats.median(part["us_per_frame"] for part in pages)),
    }
