"""The page under the hands of people: focus and place are kept, little motion, clocks that differ, refusals."""

from collections.abc import Callable

from tests.browser.test_page import opened
from tests.support.browser import Watched
from tests.support.process import wait_for

Tab = Callable[..., Watched]


def test_the_skip_link_leads_to_the_content_and_stays_on_the_page(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "devices?sort=gaps")
    shown.page.keyboard.press("Tab")
    shown.page.keyboard.press("Enter")
    shown.page.locator("h1:focus", has_text="Devices").wait_for()
    assert shown.page.url.endswith("#/devices?sort=gaps")


def test_the_table_of_devices_keeps_focus_place_and_order(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "devices?size=20&sort=device_id")
    page, rows = shown.page, shown.page.locator("main tbody th a")
    rows.first.wait_for()
    pages = [rows.all_inner_texts()]
    assert page.get_by_label("Page size").input_value() == "20"

    def another() -> bool:
        if (seen := rows.all_inner_texts()) in pages:
            return False
        pages.append(seen)
        return True

    for _ in range(2):
        page.get_by_role("button", name="Next page").click()
        wait_for(another, 60, "the next page")
    page.go_back()
    wait_for(lambda: rows.all_inner_texts() == pages[1], 60, "the second page, by Back")
    page.get_by_role("button", name="Previous page").click()
    wait_for(lambda: rows.all_inner_texts() == pages[0], 60, "the first page")
    for order in ("descending", "ascending"):
        page.get_by_role("button", name="gaps").focus()
        page.keyboard.press("Enter")
        page.locator(f"th[aria-sort={order}]", has_text="gaps").wait_for()
        assert page.evaluate("document.activeElement.textContent").startswith("gaps")
    page.reload()
    page.locator("th[aria-sort=ascending]", has_text="gaps").wait_for()
    rows.nth(2).focus()
    shown.requests.clear()
    page.keyboard.press("Tab")  # within the rows: nothing is asked, nothing changes its place
    rows.nth(5).hover()
    page.get_by_text("the rows do not move").wait_for()
    assert [url for url in shown.requests if "/devices/" in url] == []
    held = page.evaluate("document.activeElement.textContent")
    assert held == rows.nth(3).inner_text()
    assert shown.errors == []


def test_the_focus_follows_rows_that_move_and_is_not_lost_with_one(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "about")
    found = shown.page.evaluate(
        """async () => {
          const { html, render } = await import("/ui/lib.js");
          const { Table } = await import("/ui/parts.js");
          const root = document.body.appendChild(document.createElement("div"));
          const columns = [{ label: "x", cell: (row) => html`<button>${row.key}</button>` }];
          const draw = (keys) => {
            const rows = keys.map((key) => ({ key }));
            render(html`<${Table} caption="c" columns=${columns} rows=${rows} />`, root);
          };
          const now = () => document.activeElement.textContent.trim();
          draw(["a", "b", "c"]);
          root.querySelectorAll("button")[2].focus();
          draw(["c", "a", "b"]);
          const moved = now();
          draw(["b", "a", "c"]);
          const back = now();
          draw(["b", "a"]);
          const gone = document.activeElement.getAttribute("aria-label");
          root.remove();
          return [moved, back, gone];
        }"""
    )
    assert found == ["c", "c", "c"]


def test_little_motion_and_forced_colours_are_honoured(tab: Tab, demo: str) -> None:
    shown = opened(tab(reduced_motion="reduce", forced_colors="active"), demo, "overview")
    shown.page.locator(".rate").first.wait_for()
    drawn, lines = shown.page.evaluate(
        """async () => {
          const { store } = await import("/ui/store.js");
          store.close();
          let drawn = 0;
          const end = store.subscribe(() => { drawn += 1; });
          store.drawnMs = Date.now();
          for (let i = 1; i < 9; i += 1) store.receive({ ...store.now, at_ms: store.now.at_ms + 1000 });
          end();
          const key = getComputedStyle(document.querySelector(".swatch.series-2")).backgroundColor;
          const { color } = await import("/ui/chart.js");
          return [drawn, [key, color("--series-2")]];
        }"""
    )
    assert drawn == 0 and lines[0] == lines[1]


def test_times_are_of_the_clock_of_the_worker(tab: Tab, demo: str) -> None:
    shown = tab()
    shown.page.clock.set_fixed_time("2020-01-01T00:00:00Z")
    opened(shown, demo, "devices")
    shown.page.locator("td", has_text="ago").or_(shown.page.locator("td", has_text="now")).first.wait_for()
    ahead = "import('/ui/store.js').then(({store}) => store.clock() - Date.now())"
    wait_for(lambda: shown.page.evaluate(ahead) > 365 * 86_400_000, 60, "the worker's clock, with the first event")


def test_an_outage_of_kafka_leaves_the_page_of_topics_and_says_what_is_unknown(tab: Tab, demo: str) -> None:
    shown = tab()
    body = shown.page.request.get(f"{demo}/topics/").json()
    body["topics"] = {name: row | {"groups": None} for name, row in body["topics"].items()}
    shown.page.route("**/topics/", lambda route: route.fulfill(json=body))
    opened(shown, demo, "topics")
    shown.page.get_by_text("Unknown: Kafka does not answer.").wait_for()
    shown.page.locator("main tbody code", has_text="klais_raw").first.wait_for()
    assert shown.errors == []


def test_the_link_to_grafana_is_there_if_it_is_set_and_asks_nothing_of_it(tab: Tab, demo: str) -> None:
    shown, where = tab(), "https://grafana.example/d/klais?orgId=1"
    about = shown.page.request.get(f"{demo}/api/v1/about").json()
    opened(shown, demo, "about")
    assert shown.page.get_by_role("link", name="Grafana").count() == 0
    shown.page.route("**/api/v1/about", lambda route: route.fulfill(json=about | {"grafana": where}))
    shown.page.reload()
    link = shown.page.get_by_role("link", name="Grafana")
    link.wait_for()
    assert (link.get_attribute("href"), link.get_attribute("rel")) == (where, "noreferrer")
    assert shown.errors == [] and shown.hosts() == {demo}


def test_a_refused_stream_says_why_and_an_empty_table_that_nothing_is_known(tab: Tab, demo: str) -> None:
    shown = tab()
    refusal = {"error": "32 pages are open on this worker: close one", "code": "too_many_streams", "details": {}}
    shown.page.route("**/api/v1/stream", lambda route: route.fulfill(status=503, json=refusal))
    shown.page.route("**/anomalies/**", lambda route: route.fulfill(status=503, json=refusal | {"error": "no worker"}))
    opened(shown, demo, "anomalies")
    shown.page.get_by_text("(32 pages are open on this worker: close one)").wait_for()
    shown.page.get_by_text("Unknown.").wait_for()
    shown.page.get_by_text("no worker", exact=True).wait_for()
    shown.page.unroute("**/api/v1/stream")
    shown.page.route("**/api/v1/stream", lambda route: route.fulfill(status=401, json=refusal))
    shown.page.get_by_text("Reading needs a token").wait_for()
    assert shown.page.locator(".banner").count() == 1
