"""Frames with their payloads on the page, and blocks of all places in one table."""

import copy
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace

import pytest
from aiohttp import web

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.constants import encode_frame
from klais.http.access import Access, digest
from klais.http.connections import ConnectionLimits, Listener
from klais.http.errors import HttpError, reply
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.ui.changes import Changes
from klais.ui.recording import Recording
from klais.ui.routes import Page, install
from klais.worker.tap import Taps
from klais.worker.web.frames import PATH
from tests.browser.conftest import Served
from tests.browser.test_page import LOOSE, opened
from tests.support.browser import Watched
from tests.support.lane import T0_NS, batch, bounds, limits
from tests.support.process import wait_for
from tests.support.servers import add_frames

TOKEN = "token-of-the-operators"
HOSTILE_ID = '"><img src=x>'
HOSTILE = b"<img src=//x.example onerror=hacked=1>\xe2\x80\xae\x1b[31m"
Tab = Callable[..., Watched]


class Site:
    """The page of a worker whose lane decides two frames of every device before each answer."""

    def __init__(self, recording: Recording) -> None:
        self.known, self.taps, self.state = recording.devices()[0], Taps(), LaneState()
        known = (digest(TOKEN),)
        guard = Guard(AllowedHosts("127.0.0.1"), Access(change=known, read=known, changes_need=True))
        changes = Changes(ControlFollower(Settings()), lambda: SimpleNamespace(change=lambda *_: None), 1000.0)
        page = Page(guard=guard, feed=recording, changes=changes, audit=recording.audit)
        app = web.Application()
        guard.install(app)
        app.middlewares.append(self._decide)
        install(app, page)
        add_frames(app, self.taps, guard)

        async def recorded(request: web.Request) -> web.StreamResponse:
            if (body := recording.page(request.rel_url.raw_path)) is None:
                raise HttpError(404, "unknown_device", "no worker knows it")
            return reply(body)

        app.router.add_get("/{path:.*}", recorded)
        self.served = Served(Listener(app, "127.0.0.1", 0, ConnectionLimits()))
        self.url = self.served.url

    @web.middleware
    async def _decide(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path == PATH and self.taps.open:
            at = self.state.next_raw
            some = [encode_frame(name, at, b'{"t":%d}' % at) for name in (self.known, "dev-1")]
            some.append(encode_frame(HOSTILE_ID, at, HOSTILE))
            self.taps.observe(0, take_raw(self.state, at, batch(some, at, T0_NS), limits(), bounds(), T0_NS))
        return await handler(request)


@pytest.fixture
def site(recording: Recording) -> Iterator[Site]:
    made = Site(recording)
    yield made
    made.served.stop()


def asked(tab: Watched) -> list[str]:
    return [url for url in tab.requests if PATH in url]


def test_frames_are_shown_to_who_may_change_something_and_run_nothing(tab: Tab, site: Site) -> None:
    shown = opened(tab(), site.url, "overview")
    shown.page.get_by_text("Payloads are private").get_by_role("link", name="log in").click()
    assert asked(shown) == [] and not site.taps.open
    shown.page.get_by_label("Your name").fill("Ada")
    shown.page.get_by_label("Token").fill(TOKEN)
    shown.page.locator("main button").click()
    table = shown.page.get_by_role("region", name="Newest frames")  # the login leads back
    table.locator("tbody tr", has_text="bad json").first.wait_for()
    text = table.inner_text()
    assert "<img src=//x.example onerror=hacked=1>\\u202e\\u001b[31m" in text and HOSTILE_ID in text
    assert shown.page.evaluate(LOOSE) == [True, [], 0, True]
    wait_for(lambda: table.locator("tbody tr").count() == 6, 60, "six frames")
    hold = shown.page.get_by_role("button", name="Hold these frames")
    hold.click()
    shown.page.locator("button[aria-pressed=true]", has_text="Hold these frames").wait_for()
    held = table.inner_text()
    heard = "import('/ui/store.js').then(({store}) => store.now.at_ms)"
    began = shown.page.evaluate(heard)
    wait_for(lambda: shown.page.evaluate(heard) > began, 60, "figures go on")
    assert table.inner_text() == held
    hold.click()
    wait_for(lambda: table.inner_text() != held, 60, "new frames")
    opened(shown, site.url, f"device/{site.known}")
    table = shown.page.get_by_role("region", name="Last frames of this device")
    table.locator("tbody tr", has_text='{"t":').first.wait_for()
    assert table.locator("tbody", has_text="img").count() == 0
    chart = shown.page.get_by_role("img", name="t, since this page was opened. value: now")
    chart.wait_for()
    wait_for(lambda: "from" in (chart.get_attribute("aria-label") or ""), 60, "the range of the values")
    assert shown.page.get_by_label("Values of").input_value() == "t"
    assert shown.errors == [] and shown.hosts() == {site.url}


VALUES = """async () => {
  const { html, render } = await import("/ui/lib.js");
  const { Values, numbers } = await import("/ui/values.js");
  const root = document.body.appendChild(document.createElement("div"));
  const draw = async (frames) => {
    render(html`<${Values} frames=${frames} theme="light" />`, root);
    await new Promise((done) => setTimeout(done, 50));
    const label = root.querySelector("[role=img]")?.getAttribute("aria-label") ?? "";
    return [[...root.querySelectorAll("option")].map((each) => each.value), label];
  };
  const frame = (seq, payload) => ({ ts: 1e12 + 60_000 * seq, seq, payload });
  const out = [
    ['{"a":{"b":-2.5},"s":"1","l":[3],"n":null,"i":1e999}', '{"a":', "7", "null"].map(numbers),
    numbers(JSON.stringify(Object.fromEntries(Array.from({ length: 99 }, (_, i) => [i, i])))).length,
    await draw([]),
    await draw([frame(1, '{"t":-21.5,"__proto__":4}'), frame(2, '{"t":-20')]),
    await draw([frame(1, '{"t":-21.5}'), frame(3, '{"t":-19,"<img>\u202e":2}')]),
    await draw(Array.from({ length: 400 }, (_, i) => frame(10 + i, `{"z":${i}}`))),
  ];
  root.remove();
  return out;
}"""


def test_numbers_of_payloads_become_a_chart_of_one_field(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "about")
    found, many, none, first, second, last = shown.page.evaluate(VALUES)
    assert found == [[["a.b", -2.5]], [], [], []] and many == 50
    assert none == [[], ""]
    assert first == [["t", "__proto__"], "t, since this page was opened. value: now -21.5, from -21.5 to -21.5"]
    assert second == [
        ["t", "__proto__", "<img>\u202e"],
        "t, since this page was opened. value: now -19, from -21.5 to -19",
    ]
    assert last == [["z"], "z, since this page was opened. value: now 399, from 100 to 399"]
    assert shown.errors == []


def test_blocks_of_the_system_and_of_one_filter_stand_in_one_table(tab: Tab, recording: Recording) -> None:
    changed = copy.copy(recording)
    block = {"block": True, "author": "ada", "reason": "floods", "until_ms": None}
    rows = [{"device_id": "dev-1", "state": "blocked", "blocked": 4321, "dropped": 5}]
    changed.pages = recording.pages | {"/devices/": recording.pages["/devices/"] | {"items": rows, "sort": "blocked"}}
    served = Served.demo(changed)
    try:
        shown = opened(tab(), served.url, "about")
        event = shown.page.evaluate(
            "import('/ui/store.js').then(({store}) => new Promise((done) => { const look = () =>"
            " store.now ? (store.close(), done(store.now)) : setTimeout(look, 20); look(); }))"
        )
        scopes = [{"scope": "device/dev-1"} | block, {"scope": "device/dev-3", "unblock": True} | block]
        scopes.append({"scope": "device/dev-2", "block": True, "until_ms": 1})
        scopes += [{"scope": f"source/{prefix}"} | block for prefix in ("192.0.2.0/24", "2001:db8::/32")]
        event["control"]["overrides"] = [*scopes, {"scope": "device/slow", "rate": 2.0, "author": "ben"}]
        local = [{"device_id": HOSTILE_ID, "left_s": 120.0, "dropped": 5678}]
        drops = {"block_drops": {"dev-1": 1234}, "source_drops": {"192.0.2.0/24": 2345}}
        event["edges"][0]["gauges"] |= {"blocked_sources": 2, "source_drops": {"192.0.2.0/24": 3456}}
        event["edges"][0]["gauges"]["xdp"] |= {"blocked": 2, "local_blocks": local} | drops
        event["edges"][0]["gauges"]["xdp"]["packets"] |= {"blocked": 77, "would_blocked": 8, "blocked_source": 99}
        shown.page.evaluate("location.hash = '/edges'")
        shown.page.evaluate("event => import('/ui/store.js').then(({store}) => store.receive(event))", event)
        table = shown.page.get_by_role("region", name="Blocks: of the whole system")
        table.locator("tr", has_text="dev-1").get_by_text("4,321", exact=True).wait_for()
        both = [row.inner_text() for row in table.locator("tbody tr").all()]
        assert len(both) == 2 and "workers and 1 kernel filter" in both[0] and "ada" in both[0]
        assert "1,234" in both[0] and "5,678" in both[1]
        assert HOSTILE_ID in both[1] and "only the kernel filter of vm" in both[1] and "in 2 min" in both[1]
        of_sources = shown.page.get_by_role("region", name="Blocked sources").locator("tbody tr")
        sources = [row.inner_text() for row in of_sources.all()]
        assert len(sources) == 2 and "192.0.2.0/24" in sources[0] and "2001:db8::/32" in sources[1]
        assert "edges and 1 kernel filter" in sources[0] and "2,345" in sources[0] and "3,456" in sources[0]
        shown.page.get_by_text("blocks 2 devices and has dropped 77 packets").wait_for()
        shown.page.get_by_text("let 8 pass").wait_for()
        shown.page.get_by_text("It dropped 99 packets of blocked sources.").wait_for()
        limits_of = shown.page.get_by_role("region", name="Devices with limits of their own").locator("tbody")
        assert "slow" in limits_of.inner_text() and "dev-1" not in limits_of.inner_text()
        shown.page.evaluate("location.hash = '/overview'")
        shown.page.get_by_text("A recording has no payloads").wait_for()
        assert shown.errors == [] and asked(shown) == []
    finally:
        served.stop()
