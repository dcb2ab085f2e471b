"""Every page loads without an error, asks no other host, is accessible, and shows hostile text as text."""

import copy
import os
from collections.abc import Callable

import orjson
import pytest

from klais.ui.recording import Recording
from tests.browser.conftest import Served
from tests.support.browser import Watched
from tests.support.process import wait_for

PAGES = {
    "overview": "iot_telemetry",
    "devices": "last seen",
    "control": "Newest decisions",
    "anomalies": "devices were flagged",
    "incidents": "the newest first",
    "topics": "Consumer groups",
    "edges": "Kernel filters",
    "about": "for programs",
}
Tab = Callable[..., Watched]
HOSTILE = ('"><svg onload=x>', "<img src=x>", "a\u202eb", "\x1b[31mred", "'-alert(1)-'")


def opened(tab: Watched, demo: str, path: str) -> Watched:
    tab.page.goto(f"{demo}/ui/#/{path}")
    tab.page.wait_for_selector("main h1")
    return tab


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_without_errors_and_asks_no_other_host(tab: Tab, demo: str, name: str) -> None:
    shown = opened(tab(), demo, name)
    shown.page.get_by_text(PAGES[name]).first.wait_for()
    assert shown.errors == []
    assert shown.hosts() == {demo}


def test_the_root_leads_a_browser_to_the_page_with_a_sentence_of_health(tab: Tab, demo: str) -> None:
    shown = tab()
    shown.page.goto(demo + "/")
    shown.page.wait_for_selector(".sentence")
    assert shown.page.url.startswith(f"{demo}/ui/")
    assert shown.page.locator(".sentence").inner_text().strip()
    shown.page.locator("canvas").nth(3).wait_for()  # charts are drawn after the text
    assert shown.page.locator("canvas").count() == 4


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
def test_no_serious_finding_of_axe(tab: Tab, recording: Recording, scheme: str, width: int) -> None:
    served = Served.demo(short_lists(recording))
    try:
        look_with_axe(tab, served.url, scheme, width, f"device/{recording.devices()[0]}")
    finally:
        served.stop()


def short_lists(recording: Recording, max_count: int = 6) -> Recording:
    """The recording with a few rows of each table: axe looks at every cell, and one row of a table is as another."""
    short = copy.copy(recording)
    short.pages = {
        path: body | {key: rows[:max_count] for key, rows in body.items() if isinstance(rows, list)}
        for path, body in recording.pages.items()
    }
    short.history = short
    return short


def serious(shown: Watched) -> list[str]:
    """What axe finds on the page that is shown."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{rule['id']}: {[node['target'] for node in rule['nodes']]}"
        for rule in Axe().run(shown.page).response["violations"]
        if rule["impact"] in ("serious", "critical")
    ]


def look_with_axe(tab: Tab, demo: str, scheme: str, width: int, device: str) -> None:
    shown = tab(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
    for name, text in (PAGES | {"audit": "kept for 30 days", "login": "Token", device: "Sequence window"}).items():
        opened(shown, demo, name)
        shown.page.get_by_text(text).first.wait_for()
        assert serious(shown) == [], name
        whole, seen = shown.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert whole <= seen, f"{name} is wider than the window"


def test_hostile_ids_and_texts_are_shown_and_run_nothing(tab: Tab, recording: Recording) -> None:
    pages = orjson.loads(orjson.dumps(recording.pages))
    items = pages["/devices/"]["items"]
    for item, text in zip(items, HOSTILE, strict=False):
        item["device_id"] = text
    hostile = copy.copy(recording)
    hostile.pages = pages
    served = Served.demo(hostile)
    try:
        shown = opened(tab(), served.url, "devices")
        shown.page.get_by_text('"><svg onload=x>').wait_for()
        text = shown.page.locator("tbody").inner_text()
        assert "a\\u202eb" in text and "\\u001b[31mred" in text and "<img src=x>" in text
        assert shown.page.locator("tbody img, tbody svg").count() == 0
        assert shown.errors == []
    finally:
        served.stop()


WHERE_IDS_STAND = ("overview", "devices", "control", "anomalies", "incidents", "topics", "edges", "audit", "about")


def hostile_everywhere(value: object, text: str, name: str = "") -> object:
    """A body in which every text that somebody else chose says ``text``."""
    if isinstance(value, dict):
        return {key: hostile_everywhere(part, text, key) for key, part in value.items()}
    if isinstance(value, list):
        return [hostile_everywhere(part, text, name) for part in value]
    chosen = isinstance(value, str) and name in CHOSEN
    return ("device/" if name == "scope" else "") + text if chosen else value


CHOSEN = {
    *("device_id", "id", "host", "author", "reason", "address", "feature", "explanation", "sentence", "text"),
    *("worker", "workers", "leader", "group", "first", "device", "members", "scope", "limits_by", "why", "name"),
}
LOOSE = """() => {
  const at = performance.getEntriesByType("resource").map((entry) => new URL(entry.name).origin);
  const raw = document.body.innerText.split("\\n").filter((line) => /[\\u202e\\u001b]/.test(line));
  const bred = document.querySelectorAll("main img, main svg, main iframe, main [onload], main [onerror]").length;
  return [window.hacked === undefined, raw, bred, at.every((origin) => origin === location.origin)];
}"""


def test_hostile_texts_of_every_page_run_nothing(tab: Tab, recording: Recording) -> None:
    text = '"><img src=//x.example onerror=hacked=1>\u202e\x1b[31m'
    hostile = copy.copy(recording)
    hostile.pages = {path: hostile_everywhere(body, text) for path, body in recording.pages.items()}
    shown = tab()
    served = Served.demo(hostile)
    try:
        shown.page.goto(f"{served.url}/ui/#/about")
        shown.page.wait_for_selector("main h1")
        event = shown.page.evaluate(
            "import('/ui/store.js').then(({store}) => new Promise((done) => { const look = () =>"
            " store.now ? (store.close(), done(store.now)) : setTimeout(look, 20); look(); }))"
        )
        bad = hostile_everywhere(event, text)
        for name in WHERE_IDS_STAND:
            shown.page.evaluate("name => { location.hash = `/${name}`; }", name)
            shown.page.evaluate("event => import('/ui/store.js').then(({store}) => store.receive(event))", bad)
            shown.page.locator("main table, main dl").first.wait_for()
            if name != "about":
                shown.page.locator("main", has_text="\\u202e\\u001b[31m").wait_for()
            assert shown.page.evaluate(LOOSE) == [True, [], 0, True], name
        assert shown.errors == [] and shown.hosts() == {served.url}
    finally:
        served.stop()


def test_the_policy_of_the_page_stops_what_is_not_its_own(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "about")
    blocked = shown.page.evaluate(
        """async () => {
          const seen = [];
          addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
          try { document.body.innerHTML = "<b>x</b>"; } catch { seen.push("trusted-types"); }
          const script = document.createElement("script");
          try { script.textContent = "window.hacked = 1"; document.body.append(script); } catch { seen.push("script"); }
          await fetch("http://127.0.0.2:9/").catch(() => seen.push("fetch"));
          return [seen.includes("fetch"), window.hacked === undefined];
        }"""
    )
    assert blocked == [True, True]


def test_the_keyboard_reaches_everything_and_the_focus_follows_the_page(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    shown.page.keyboard.press("Tab")
    assert shown.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    for _ in range(3):  # the brand, Overview, Devices
        shown.page.keyboard.press("Tab")
    shown.page.keyboard.press("Enter")
    shown.page.locator("h1:focus", has_text="Devices").wait_for()


def test_the_pause_button_stops_all_motion(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    shown.page.wait_for_selector(".rate")
    shown.page.get_by_role("button", name="Pause").click()
    shown.page.get_by_role("button", name="Resume").wait_for()
    before = shown.page.locator(".path").inner_text()
    heard = shown.page.evaluate(
        "import('/ui/store.js').then(({store}) => new Promise((done) => {"
        "const at = store.now.at_ms;"
        "const look = () => store.now.at_ms > at ? done(true) : setTimeout(look, 50); look(); }))"
    )
    assert heard
    assert shown.page.locator(".path").inner_text() == before


def test_a_chart_has_a_summary_in_words_and_its_figures_as_a_table(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    chart = shown.page.get_by_role("img", name="Frames per second")
    chart.wait_for()
    assert "at most" in (chart.get_attribute("aria-label") or "")
    shown.page.get_by_role("button", name="as table").first.click()
    shown.page.locator("figure table tbody tr").first.wait_for()


def test_the_theme_is_kept(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    shown.page.get_by_label("Theme").select_option("dark")
    shown.page.wait_for_selector("html[data-theme=dark]")  # a reload before that would be too early
    shown.page.reload()
    shown.page.wait_for_selector("html[data-theme=dark] main h1")


def test_recorded_figures_cannot_be_changed_and_the_page_says_so(tab: Tab, demo: str, recording: Recording) -> None:
    path = next(path for path in recording.pages if path.endswith("/why/"))
    shown = opened(tab(), demo, "device/" + path.split("/")[2])
    shown.page.get_by_text("Recorded figures").wait_for()
    assert shown.page.get_by_role("button", name="Block…").is_disabled()


def test_a_lost_connection_is_reported_and_restored(tab: Tab, recording: Recording) -> None:
    served = Served.demo(recording)
    shown = opened(tab(), served.url, "overview")
    shown.page.wait_for_selector(".rate")
    served.stop()
    shown.page.get_by_text("No connection to the worker").wait_for()
    again = Served.demo(recording, port=int(served.url.rpartition(":")[2]))
    try:
        shown.page.get_by_text("No connection to the worker").wait_for(state="detached")
    finally:
        again.stop()


def test_a_device_without_recorded_details_leads_to_those_that_have_some(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "device/nobody")
    shown.page.get_by_text("The recording has no details of").wait_for()
    shown.page.locator("main li a").first.click()
    shown.page.get_by_role("heading", name="Why").wait_for()
    assert shown.errors == []


def test_a_page_that_is_not_there_is_said(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "nonsense")
    shown.page.get_by_text("There is no such page").wait_for()
    assert shown.page.locator("h1").inner_text() == "No page nonsense"


def test_the_table_of_recorded_devices_can_be_searched_sorted_and_paged(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "devices?size=50")
    rows = shown.page.locator("main tbody th")
    rows.first.wait_for()

    def rows_once(wanted: Callable[[list[str]], bool]) -> list[str]:
        found: list[list[str]] = wait_for(lambda: [ids] if wanted(ids := rows.all_inner_texts()) else [], 60, "rows")
        return found[0]

    first = rows_once(lambda ids: len(ids) == 50)
    shown.page.get_by_role("button", name="Next page").click()
    second = rows_once(lambda ids: ids != first)
    assert not set(first) & set(second)
    shown.page.get_by_role("button", name="Previous page").click()
    rows_once(lambda ids: ids == first)
    shown.page.get_by_role("button", name="device", exact=True).click()
    assert (ids := rows_once(lambda ids: ids != first)) == sorted(ids)
    shown.page.get_by_label("Part of the id").fill("chatty")
    shown.page.get_by_role("button", name="Search").click()
    rows_once(lambda ids: all("chatty" in each for each in ids))
    shown.page.get_by_label("with queued frames only").check()
    shown.page.get_by_text("No device matches.").wait_for()
    shown.page.get_by_label("with queued frames only").uncheck()
    shown.page.get_by_label("Overdue by more than").select_option(label="20 of its intervals")
    shown.page.wait_for_url("**silent_intervals=20**")
    shown.page.get_by_label("Overdue by more than").select_option(label="any number")
    shown.page.get_by_label("Silent for").select_option(label="1 day")
    shown.page.get_by_text("No device matches.").wait_for()
    shown.page.get_by_label("Silent for").select_option(label="any time")
    rows_once(lambda ids: bool(ids) and all("chatty" in each for each in ids))
    shown.page.evaluate("location.hash = '/devices?silent_s=7200&q=chatty'")
    shown.page.locator("select", has_text="2 h").wait_for()
    shown.page.evaluate("location.hash = '/devices?silent_s=constructor&q=chatty'")
    shown.page.locator("select", has_text="constructor").wait_for()
    shown.page.get_by_label("Silent for").select_option(label="any time")
    rows_once(lambda ids: bool(ids) and all("chatty" in each for each in ids))
    shown.page.get_by_role("button", name="silent").click()
    shown.page.get_by_text("No device matches.").wait_for()
    assert shown.errors == []


PRESSED = "main button, main input[type=checkbox], main summary, .tools button"


def test_every_button_of_every_page_can_be_pressed(tab: Tab, demo: str, recording: Recording) -> None:
    shown = tab(permissions=["clipboard-write"])
    for name in (*PAGES, "audit", "login", f"device/{recording.devices()[0]}"):
        opened(shown, demo, name)
        shown.page.locator("main table, main dl, main form").first.wait_for()
        for button in shown.page.locator(PRESSED).element_handles():
            button.evaluate("element => element.isConnected && !element.disabled && element.click()")
    assert shown.errors == []


# What is in the tab's memory: the numbers of objects, arrays and nodes, after a collection of garbage.
UPDATES = int(os.environ.get("KLAIS_TEST_UPDATES", "60"))  # a leak keeps at least one object of each
COUNTS = ("Object.prototype", "Array.prototype", "Node.prototype")
UPDATE = """async ([seconds, drawn]) => {
  const { store } = await import("/ui/store.js");
  for (let i = 0; i < seconds; i += 1) {
    const at_ms = store.history.at_ms.at(-1) + 1000;
    if (!drawn) { store.append({ ...store.now, at_ms }); continue; }
    store.receive(structuredClone({ ...store.now, at_ms }));
    await new Promise((done) => setTimeout(done));
  }
  return Math.max(...Object.values(store.history).map((column) => column.length));
}"""


def test_an_open_page_keeps_nothing_of_the_updates_that_it_drew(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    shown.page.locator("canvas").nth(3).wait_for()
    shown.page.evaluate("import('/ui/store.js').then(({store}) => store.close())")
    full = shown.page.evaluate(UPDATE, [900, False])
    shown.page.evaluate(UPDATE, [10, True])
    before = retained(shown)
    assert shown.page.evaluate(UPDATE, [UPDATES, True]) == full == 900
    after = retained(shown)
    assert all(after[kind] - before[kind] < UPDATES // 2 for kind in COUNTS), (before, after)
    assert shown.errors == []


def retained(shown: Watched) -> dict[str, int]:
    session = shown.page.context.new_cdp_session(shown.page)
    out = {}
    for kind in COUNTS:
        prototype = session.send("Runtime.evaluate", {"expression": kind})["result"]["objectId"]
        session.send("HeapProfiler.collectGarbage")
        found = session.send("Runtime.queryObjects", {"prototypeObjectId": prototype})["objects"]["objectId"]
        size = {"objectId": found, "functionDeclaration": "function() { return this.length; }", "returnByValue": True}
        out[kind] = session.send("Runtime.callFunctionOn", size)["result"]["value"]
        session.send("Runtime.releaseObject", {"objectId": found})
    session.detach()
    return out


def test_the_overview_says_where_and_since_when_frames_were_lost_and_when_the_lag_is_gone(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    shown.page.get_by_text("Losses in the last").wait_for()
    shown.page.locator("main table", has_text="kernel of").wait_for()
    found = shown.page.evaluate(
        """async () => {
          const { losses, clearing } = await import("/ui/overview.js");
          const at_ms = Array.from({ length: 120 }, (_, i) => 1000 * i);
          const lost = (...at) => at_ms.map((_, i) => (at.includes(i) ? 5 : 0));
          const found = losses({
            at_ms, edge_dropped_unintended: lost(3, 4, 9, 90), worker_dropped_unintended: lost(),
          });
          const rates = { worker_received: [300, 300], edge_passed: [100, 100] };
          const behind = { lag_records: 9, lag_frames: 4000, lag_s: 30 };
          return [
            found.map((row) => [row.where, row.since, row.until, row.frames]),
            clearing({ lag_records: 0 }, rates), clearing(behind, rates),
            clearing(behind, { worker_received: [1], edge_passed: [100] }),
          ];
        }"""
    )
    assert found[0] == [["edges", 90_000, 90_000, 5], ["edges", 3_000, 9_000, 15]]
    assert found[1] == "No batches wait in klais_raw."
    assert found[2].endswith("The workers process 200 frames/s more than arrive: done in 20 s.")
    assert found[3].endswith("The workers are slower than the arrivals: the lag grows.")


def test_a_page_that_just_opened_claims_no_lost_connection(tab: Tab, demo: str) -> None:
    shown = tab()
    shown.page.route("**/api/v1/stream", lambda _route: None)  # the first event is not there yet
    opened(shown, demo, "overview")
    shown.page.get_by_text("Waiting for the first figures").wait_for()
    first = "import('/ui/store.js').then(({store}) => new store.constructor().connected)"
    assert shown.page.evaluate(first) is True
    shown.page.get_by_text("No connection to the worker").wait_for()
