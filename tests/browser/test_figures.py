"""Spools against their limit, rates of the kernel filter, and lanes that recover, as the page shows them: whole,
missing and hostile figures.
"""

from collections.abc import Callable
from typing import Any

from tests.browser.test_page import LOOSE, opened
from tests.support.browser import Watched
from tests.support.process import wait_for

Tab = Callable[..., Watched]
HOSTILE = '"><img src=//x.example onerror=hacked=1>\u202e\x1b[31m'
GIB = 1 << 30
UNKNOWN = "\u2013"
NOW = (
    "import('/ui/store.js').then(({store}) => new Promise((done) => { const look = () =>"
    " store.now ? (store.close(), done(store.now)) : setTimeout(look, 20); look(); }))"
)
SHOW = "event => import('/ui/store.js').then(({store}) => store.receive(event))"


def edge(of: dict[str, Any], name: str, **gauges: Any) -> dict[str, Any]:
    return of | {"id": name, "host": f"host-of-{name}:/maps", "gauges": gauges}


def lines_of(shown: Watched, caption: str) -> dict[str, str]:
    """Rows of a table: first cell (and the second, if the first says a host) -> the whole row as text."""
    table = shown.page.locator("main table", has=shown.page.locator("caption", has_text=caption))
    rows = [row.inner_text().split("\t") for row in table.locator("tbody tr").all()]
    return {" ".join(row[:2]).strip(): " | ".join(" ".join(cell.split()) for cell in row) for row in rows}


def test_spools_filters_and_recovering_lanes_are_shown_with_their_figures(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "edges")
    event = shown.page.evaluate(NOW)
    model, worker = event["edges"][0], event["workers"][0]
    packets = {"pass": 9000.0, "blocked": 70.0, "ring_full": 5.0, "would_device_rate": 300.0, "too_short": 0.0}
    event["edges"] = [
        edge(model, "a", spooled=900, spool_bytes=0.5 * GIB, spool_max_bytes=4 * GIB, spool_full_s=5400.0),
        edge(model, "b", spooled=900, spool_bytes=3.9 * GIB, spool_max_bytes=4 * GIB, spool_full_s=30.0),
        edge(model, "c", spooled=900, spool_bytes=4 * GIB, spool_max_bytes=4 * GIB, spool_full_s=0.0),
        edge(model, "d", spooled=0, spool_bytes=0, spool_max_bytes=0),
        edge(model, "e", spooled=1, spool_bytes=5, spool_max_bytes=4 * GIB),
    ]
    event["edges"][0]["gauges"]["xdp"] = {"packets": packets, "rates": {"pass": 1234.5, "would_device_rate": 15.0}}
    event["edges"][0]["kernel_dropped"] = [
        {"reason": "blocked", "frames": 70, "intended": True},
        {"reason": "ring_full", "frames": 5, "intended": False},
    ]
    event["edges"][1]["gauges"]["xdp"] = {"packets": {"pass": 8.0}}
    event["workers"] = [worker | {"restoring": [{"partition": 2, "text": "61 % of the journal replayed"}]}]
    event["sample"] |= {"spool_frames": 3600.0, "spool_bytes": 8.4 * GIB}
    shown.page.evaluate(SHOW, event)
    shown.page.locator("main table", has_text="is full").wait_for()
    edges = list(lines_of(shown, "Edges").values())
    assert "900 frames 512 MiB of 4 GiB (12 %) | in 1.5 h" in edges[0]
    assert "3.9 GiB of 4 GiB (97 %) | ■ in 30 s" in edges[1] and "900 frames ▲ 3.9" in edges[1]
    assert "(100 %) | ■ is full" in edges[2]
    assert f"no spool | {UNKNOWN}" in edges[3]
    assert "(0 %) | no growth" in edges[4]
    verdicts = lines_of(shown, "Verdicts of the kernel filter")
    assert list(verdicts.values()) == [
        "host-of-a | pass | pass | 1,235 | 9,000",
        "host-of-a | blocked | are dropped | 0 | 70",
        "host-of-a | ring full | ■ are dropped: a loss | 0 | 5",
        "host-of-a | would device rate | pass (monitor mode) | 15 | 300",
        f"host-of-b | pass | pass | {UNKNOWN} | 8",
    ]
    shown.page.evaluate("location.hash = '/topics'")
    shown.page.locator("main table", has_text="61 % of the journal replayed").wait_for()
    assert list(lines_of(shown, "Lanes that recover").values()) == [
        f"2 | {worker['id']} | 61 % of the journal replayed"
    ]
    shown.page.evaluate("location.hash = '/overview'")
    path = shown.page.locator(".path")
    path.get_by_text("lane 2: 61 % of the journal replayed").wait_for()
    assert "3,600 frames in spools (8.4 GiB; the fullest is 100 % full, no room)" in path.inner_text()
    assert shown.errors == []


def test_an_edge_without_rights_to_the_filter_does_not_hide_what_it_dropped(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    event = shown.page.evaluate(NOW)
    model = event["edges"][0] | {"host": "h:/maps", "dropped": [], "kernel_dropped": []}
    losses = [{"reason": "ring_full", "frames": 4711, "intended": False}]
    event["edges"] = [model | {"id": "a", "kernel_dropped": losses}, model | {"id": "b"}]
    shown.page.evaluate(SHOW, event)
    shown.page.locator("main table", has_text="4,711").wait_for()
    assert shown.errors == []


def test_charts_go_on_after_the_clock_of_the_worker_was_a_day_ahead(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "overview")
    event = shown.page.evaluate(NOW)
    day, now_ms = 86_400_000, event["at_ms"]
    for later_ms in (1000, day + 2000, day + 3000, 4000, 5000):
        shown.page.evaluate(SHOW, event | {"at_ms": now_ms + later_ms})
    times = shown.page.evaluate("import('/ui/store.js').then(({store}) => store.history.at_ms)")
    assert times[-3:] == [now_ms + 1000, now_ms + 4000, now_ms + 5000]
    assert shown.errors == []


def test_figures_that_are_missing_or_hostile_leave_no_gap_and_run_nothing(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "edges")
    event = shown.page.evaluate(NOW)
    model, worker = event["edges"][0], event["workers"][0]
    older = {name: part for name, part in model.items() if name != "kernel_dropped"}  # of an older worker
    event["edges"] = [
        edge(older, "old", breaker="closed"),
        edge(model, "bare", spool_max_bytes=5.0, xdp={"packets": {}}),
        edge(model, "odd", spooled=1e18, spool_bytes=1e18, spool_max_bytes=1.0, spool_full_s=1e18),
        edge(model, HOSTILE, xdp={"packets": {HOSTILE: 5.0, "constructor": 5.0}, "rates": {HOSTILE: 1e18}}),
        edge(model, "whose", xdp={"packets": {"pass": 1.0}, "rates": {}, "limits_by": "constructor"}),
    ]
    event["workers"] = [
        {name: part for name, part in worker.items() if name != "restoring"} | {"id": "old"},
        worker | {"restoring": [{"partition": 0, "text": HOSTILE}]},
    ]
    event["sample"] |= {"spool_frames": 5.0}
    for name, text in (("edges", "host-of-whose"), ("topics", "Lanes that recover"), ("overview", "frames in spools")):
        shown.page.evaluate("name => { location.hash = `/${name}`; }", name)
        shown.page.evaluate(SHOW, event)
        shown.page.locator("main", has_text=text).wait_for()
        assert shown.page.evaluate(LOOSE) == [True, [], 0, True], name
        seen = shown.page.locator("main").inner_text()
        assert not [word for word in ("undefined", "NaN", "null", "Infinity", "[object", "function") if word in seen]
    assert shown.errors == [] and shown.hosts() == {demo}


def first_cells(shown: Watched, caption: str) -> list[str]:
    table = shown.page.locator("main table", has=shown.page.locator("caption", has_text=caption))
    texts: list[str] = table.locator("tbody th").all_inner_texts()
    return [text.strip() for text in texts]


def test_tables_of_lag_are_sorted_by_it_also_when_the_figures_change(tab: Tab, demo: str) -> None:
    shown = opened(tab(), demo, "topics")
    partitions, topics = "Lag of each partition", "Topics"
    event = shown.page.evaluate(NOW)
    worker = event["workers"][0]

    def draw(*lag_s: float) -> None:
        ages = {str(p): age for p, age in enumerate(lag_s)}
        gauges = worker["gauges"] | {"lag_s": ages, "lag_records": {p: 1 for p in ages}}
        event["workers"] = [worker | {"gauges": gauges}]
        event["at_ms"] += 1000
        shown.page.evaluate(SHOW, event)

    def shows(caption: str, wanted: list[str]) -> None:
        wait_for(lambda: first_cells(shown, caption) == wanted, 60, f"{caption}: {wanted}")

    def sort_by(label: str, order: str) -> None:
        shown.page.get_by_role("button", name=label).focus()
        shown.page.keyboard.press("Enter")
        shown.page.locator(f"th[aria-sort={order}]", has_text=label).wait_for()

    draw(2, 9, 4)
    shows(partitions, ["0", "1", "2"])
    sort_by("oldest", "descending")
    shows(partitions, ["1", "2", "0"])
    draw(7, 3, 4)
    shows(partitions, ["0", "2", "1"])
    sort_by("oldest", "ascending")
    shows(partitions, ["1", "2", "0"])
    wait_for(lambda: first_cells(shown, topics), 60, "the topics")
    unsorted = first_cells(shown, topics)
    with_groups = "klais_raw"  # the only one in the recording: topics without a group are last in both orders
    for order in ("descending", "ascending"):
        sort_by("lag of the last group", order)
        shows(topics, [with_groups, *(name for name in unsorted if name != with_groups)])
    sort_by("lag, records", "descending")
    assert shown.errors == []
