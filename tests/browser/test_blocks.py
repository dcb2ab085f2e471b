"""Blocked sources and devices on the page: blocked and unblocked by keyboard, refusals, where the focus is after."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from klais.ui.recording import Recording
from tests.browser.test_changes import Office, ada, closed, confirm, logged_in, office, opened
from tests.browser.test_live import fill, press
from tests.browser.test_page import LOOSE, serious
from tests.support.browser import Watched
from tests.support.process import wait_for

__all__ = ["ada", "office"]  # fixtures
Tab = Callable[..., Watched]
FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"


def arrived(shown: Watched, office: Office, path: str, title: str) -> Watched:
    """Opened, and the focus is on the heading: it would move there while somebody types."""
    opened(shown, office, path).page.locator("h1:focus", has_text=title).wait_for()
    return shown


def rows(shown: Watched, caption: str) -> Any:
    return shown.page.locator("main table", has=shown.page.locator("caption", has_text=caption)).locator("tbody")


def test_a_source_is_blocked_and_unblocked_by_keyboard(ada: Watched, office: Office) -> None:
    page = arrived(ada, office, "edges", "Edges and XDP").page
    page.get_by_role("button", name="Block a source…").wait_for()
    press(ada, "Block a source…")
    page.locator("dialog[open]").wait_for()
    fill(ada, prefix="192.0.2.0/24", reason="invented ids")
    row = rows(ada, "Blocked sources").locator("tr", has_text="192.0.2.0/24")
    row.get_by_text("invented ids").wait_for()
    ((scope, record),) = office.taken()
    assert (scope, record["block"], record["author"]) == ("source/192.0.2.0/24", True, "Ada")
    assert record["until_ms"] > 0
    closed(ada)  # the figures may come before the answer
    assert page.evaluate(FOCUSED) == "Block a source…"  # the dialog gives the focus back
    press(ada, "Unblock…")
    page.locator("dialog[open]", has_text="Unblock 192.0.2.0/24").wait_for()
    fill(ada, reason="calm again")
    page.get_by_text("No source address is blocked.").wait_for()
    ((scope, record),) = office.taken()
    assert (scope, record["unblock"], record["reason"]) == ("source/192.0.2.0/24", True, "calm again")
    wait_for(lambda: page.evaluate(FOCUSED) == "Blocked sources", 60, "the focus on the table of the row that is gone")
    assert ada.errors == []


def test_what_is_no_source_is_refused_in_the_dialog_with_the_range(ada: Watched, office: Office) -> None:
    page = arrived(ada, office, "edges", "Edges and XDP").page
    page.get_by_role("button", name="Block a source…").click()
    for nothing in ("", "..", "./"):  # no request can name them in its path
        confirm(ada, "flood", prefix=nothing)
        assert page.locator("dialog [name=prefix]:invalid").count() == 1, nothing
    for wrong, text in (
        ("10.0.0.0/7", "10.0.0.0/7 has 7 bits: an IPv4 prefix to block has 8 to 32"),
        ("192.0.2.7/24", "has host bits set"),
        ("dev-1", "does not appear to be an IPv4 or IPv6 network"),
    ):
        confirm(ada, "flood", prefix=wrong)
        page.locator("dialog .failure[role=alert]", has_text=text).wait_for()
        assert page.locator("dialog [name=prefix]").input_value() == wrong
    assert office.taken() == []
    confirm(ada, "flood", prefix=" 2001:DB8::/32 ")
    closed(ada)
    ((scope, _),) = office.taken()
    assert scope == "source/2001:db8::/32"
    assert [error for error in ada.errors if "400" not in error] == []


def test_a_blocked_device_is_unblocked_where_it_is_listed(ada: Watched, office: Office) -> None:
    office.control.consume("device/dev 7/x", b'{"block":true,"author":"Eve","reason":"floods","at":1}')
    page = arrived(ada, office, "edges", "Edges and XDP").page
    page.get_by_role("button", name="Unblock dev 7/x").click()
    confirm(ada, "it is repaired")
    page.get_by_text("No device is blocked.").wait_for()
    ((scope, record),) = office.taken()
    assert (scope, record["unblock"], record["author"]) == ("device/dev 7/x", True, "Ada")
    assert ada.errors == []


def test_the_focus_is_kept_where_the_row_goes_while_its_dialog_is_open(ada: Watched, office: Office) -> None:
    office.control.consume("source/192.0.2.7/32", b'{"block":true,"author":"Eve","reason":"floods","at":1}')
    page = arrived(ada, office, "edges", "Edges and XDP").page
    page.get_by_role("button", name="Unblock 192.0.2.7/32").focus()
    page.keyboard.press("Enter")
    page.locator("dialog[open]").wait_for()
    office.control.consume("source/192.0.2.7/32", b'{"unblock":true,"author":"Eve","at":2}')
    page.get_by_text("No source address is blocked.").wait_for(state="attached")
    page.keyboard.press("Escape")
    closed(ada)
    wait_for(lambda: page.evaluate(FOCUSED) == "Blocked sources", 60, "the focus on the table")
    assert office.taken() == [] and ada.errors == []


Listed = Callable[..., tuple[Watched, Office]]


@pytest.fixture
def listed(tab: Tab, recording: Recording) -> Iterator[Listed]:
    """A logged-in tab on a page whose table has these devices and states."""
    offices = []

    def make(states: dict[str, str]) -> tuple[Watched, Office]:
        mine = copy.copy(recording)
        page = recording.pages["/devices/"]
        rows = [page["items"][0] | {"device_id": name, "state": state} for name, state in states.items()]
        mine.pages = recording.pages | {"/devices/": page | {"items": rows, "total": len(rows)}}
        office = Office(mine)
        offices.append(office)
        shown = logged_in(tab(), office)
        arrived(shown, office, "devices", "Devices").page.locator("main tbody th").nth(len(rows) - 1).wait_for()
        return shown, office

    yield make
    for made in offices:
        made.served.stop()


def test_all_listed_devices_are_blocked_and_unblocked_by_keyboard(listed: Listed) -> None:
    shown, office = listed({"a": "normal", "b": "blocked", "<b>\u202e": "limited"})
    press(shown, "Block all listed…")
    dialog = shown.page.locator("dialog[open]", has_text="Block 2 devices")
    dialog.get_by_text("a, <b>\\u202e.", exact=True).wait_for()
    fill(shown, reason="flood")
    shown.page.get_by_text("Blocked 2 devices.").wait_for()
    closed(shown)
    assert [(scope, record["block"], record["author"]) for scope, record in office.taken()] == [
        ("device/a", True, "Ada"),
        ("device/<b>\u202e", True, "Ada"),
    ]
    assert shown.page.evaluate(FOCUSED) == "Block all listed…"
    press(shown, "Unblock all listed…")
    shown.page.locator("dialog[open]", has_text="Unblock 1 device").wait_for()
    fill(shown, reason="over")
    shown.page.get_by_text("Unblocked 1 device.").wait_for()
    ((scope, record),) = office.taken()
    assert (scope, record["unblock"]) == ("device/b", True)
    assert shown.errors == []


def test_the_number_of_many_devices_is_typed_before_they_are_blocked(listed: Listed) -> None:
    shown, office = listed({f"dev-{n}": "normal" for n in range(120)})
    shown.page.get_by_role("button", name="Unblock all listed…").click()
    shown.page.get_by_text("None of the listed devices is blocked.").wait_for()
    shown.page.get_by_role("button", name="Block all listed…", exact=True).click()
    shown.page.get_by_text("dev-0, dev-1, dev-2, dev-3, dev-4 and 115 more.").wait_for()
    for wrong in ("", "100", "121"):
        confirm(shown, "flood", count=wrong)
        assert shown.page.locator("dialog [name=count]:invalid").count() == 1, wrong
    assert office.taken() == []
    confirm(shown, "flood", count="120")
    shown.page.get_by_text("Blocked 120 devices.").wait_for()
    assert [scope for scope, _ in office.taken()] == [f"device/dev-{n}" for n in range(120)]
    assert shown.errors == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 320)])
def test_the_tables_of_blocks_are_accessible_and_need_a_login(
    tab: Tab, office: Office, scheme: str, width: int
) -> None:
    hostile = b'{"block":true,"author":"<img src=x>","reason":"\\u202e\\"><svg onload=hacked=1>","at":1}'
    office.control.consume("source/2001:db8::/32", hostile)
    office.control.consume('device/"><svg onload=x>', hostile)
    shown = opened(tab(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True), office, "edges")
    for button in ("Unblock 2001:db8::/32", 'Unblock "><svg onload=x>', "Block a source…"):
        shown.page.get_by_role("button", name=button).wait_for()
        assert shown.page.get_by_role("button", name=button).is_disabled()
    shown.page.locator("main small", has_text="to change something").wait_for()
    assert shown.page.evaluate(LOOSE) == [True, [], 0, True]
    assert serious(shown) == []
    logged_in(shown, office)
    opened(shown, office, "edges").page.get_by_role("button", name="Block a source…").click()
    shown.page.locator("dialog[open]").wait_for()
    assert serious(shown) == []
    whole, seen = shown.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert whole <= seen
