"""Every change that the page offers, by mouse and by keyboard, on a server that keeps what was asked of it."""

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from klais.config.load import Settings, describe, load
from klais.control.setpoints import ControlFollower
from klais.http.access import Access, digest
from klais.http.connections import ConnectionLimits, Listener
from klais.http.errors import HttpError, reply
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.system.clock import now_ms
from klais.ui.changes import Changes
from klais.ui.incidents import incidents_body
from klais.ui.recording import Recording
from klais.ui.routes import Page, install
from klais.worker.tap import Taps
from tests.browser.conftest import Served
from tests.support.browser import Watched
from tests.support.incidents import incident
from tests.support.process import wait_for
from tests.support.servers import add_frames

TOKEN = "token-of-the-operators"
ENVIRON = {"KLAIS_PARTITIONS": "9", "KLAIS_API_TOKEN": TOKEN, "KLAIS_TOPIC_PREFIX": "a"}
GIVEN = load(ENVIRON)
Tab = Callable[..., Watched]


class Written:
    """Takes the place of the topic: the changes, in order."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, Any]]] = []

    def change(self, scope: str, record: Any, before: Any, address: str = "") -> None:
        self.records.append((scope, dict(record)))


class Figures:
    """The recorded figures with the overrides in force."""

    def __init__(self, recording: Recording, control: ControlFollower) -> None:
        self._recording, self._control = recording, control

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recording, name)

    def event(self) -> tuple[int, bytes]:
        at_ms, body = self._recording.event()
        found = orjson.loads(body)
        found["control"]["overrides"] = self._control.overrides()
        return at_ms, orjson.dumps(found)


class Office:
    """The page with one open incident, on the recorded devices; changes need a token."""

    def __init__(self, recording: Recording) -> None:
        self.written, self.control, self.incident = Written(), ControlFollower(Settings()), incident(1)
        self.control.consume(f"incident/{self.incident.id}", orjson.dumps(self.incident.state()))
        known = (digest(TOKEN),)
        page = Page(
            guard=Guard(AllowedHosts("127.0.0.1"), Access(change=known, read=known, changes_need=True)),
            feed=Figures(recording, self.control),
            changes=Changes(self.control, lambda: self.written, 1000.0),
            audit=recording.audit,
            incidents=lambda query: incidents_body(self.control.records(), query),
            settings=lambda: describe(GIVEN, ENVIRON),
        )

        async def recorded(request: web.Request) -> web.StreamResponse:
            body = recording.page(request.rel_url.raw_path)
            if body is None:
                raise HttpError(404, "unknown_device", "no worker knows it")
            return reply(body)

        app = web.Application()
        page.guard.install(app)
        install(app, page)
        add_frames(app, Taps(), page.guard)
        app.router.add_get("/{path:.*}", recorded)
        self.served = Served(Listener(app, "127.0.0.1", 0, ConnectionLimits()))
        self.url = self.served.url

    def taken(self) -> list[tuple[str, dict[str, Any]]]:
        """What was asked since the last call."""
        taken, self.written.records = self.written.records, []
        return taken


@pytest.fixture
def office(recording: Recording) -> Iterator[Office]:
    made = Office(recording)
    yield made
    made.served.stop()


@pytest.fixture
def ada(tab: Tab, office: Office) -> Watched:
    """A tab that is logged in."""
    return logged_in(tab(), office)


def logged_in(shown: Watched, office: Office) -> Watched:
    shown.page.goto(f"{office.url}/ui/#/login")
    shown.page.get_by_label("Your name").fill("Ada")
    shown.page.get_by_label("Token").fill(TOKEN)
    shown.page.locator("main button").click()
    shown.page.get_by_role("link", name="Ada").wait_for()
    return shown


def opened(shown: Watched, office: Office, path: str) -> Watched:
    shown.page.goto(f"{office.url}/ui/#/{path}")
    shown.page.wait_for_selector("main h1")
    return shown


def confirm(shown: Watched, reason: str, **fields: str) -> None:
    """Fill the dialog that is open and send it."""
    dialog = shown.page.locator("dialog[open]")
    for name, text in (fields | {"reason": reason}).items():
        dialog.locator(f"[name={name}]").fill(text)
    dialog.locator("button[type=submit]").click()


def closed(shown: Watched) -> None:
    shown.page.locator("dialog").wait_for(state="detached")


def test_a_block_and_limits_of_one_device_show_each_their_end(ada: Watched, office: Office) -> None:
    in_an_hour = now_ms() + 3_600_000
    for name, record in (
        ("both", {"block": True, "rate": 5, "limits_until_ms": in_an_hour}),
        ("limited", {"block": True, "until_ms": 1, "rate": 5}),
    ):
        office.control.consume(f"device/{name}", orjson.dumps(record))
    opened(ada, office, "control")
    table = ada.page.get_by_role("region", name="Overrides in force")
    table.get_by_role("row", name="both blocked, rate 5/s").get_by_text(
        "block: until it is removed, limits: in "
    ).wait_for()
    table.get_by_role("row", name="limited rate 5/s").get_by_text("until it is removed").wait_for()
    assert ada.errors == []


def test_an_incident_is_acknowledged_and_that_is_taken_back(ada: Watched, office: Office) -> None:
    opened(ada, office, "incidents")
    scope = f"ack/{office.incident.id}"
    ada.page.get_by_role("button", name="Acknowledge incident").click()
    confirm(ada, "the sensor is replaced tomorrow")
    ada.page.get_by_text("by Ada: the sensor is replaced tomorrow").wait_for()
    ((asked, record),) = office.taken()
    assert (asked, record["ack"], record["author"]) == (scope, True, "Ada")
    ada.page.get_by_role("button", name="Revoke the acknowledgement").click()
    confirm(ada, "it was another one")
    ada.page.get_by_role("button", name="Acknowledge incident").wait_for()
    ((asked, record),) = office.taken()
    assert asked == scope and "ack" not in record
    assert ada.errors == []


def test_a_feature_is_muted_by_keyboard_and_heard_again(ada: Watched, office: Office) -> None:
    opened(ada, office, "incidents")
    ada.page.get_by_role("button", name="Mute incident").focus()
    ada.page.keyboard.press("Enter")
    ada.page.locator("dialog[open]").wait_for()
    ada.page.locator("dialog [name=reason]").focus()
    ada.page.keyboard.type("bench")
    ada.page.keyboard.press("Enter")
    muted = ada.page.get_by_role("region", name="Muted")
    muted.get_by_text("bench").wait_for()
    ((asked, record),) = office.taken()
    assert (asked, record["mute"], record["reason"]) == ("mute/feature/t", True, "bench")
    muted.get_by_role("button", name="Unmute feature t").click()
    confirm(ada, "the bench is done")
    muted.get_by_text("Nothing is muted.").wait_for()
    ((asked, record),) = office.taken()
    assert asked == "mute/feature/t" and "mute" not in record
    assert ada.errors == []


def test_a_device_gets_limits_and_loses_them_and_nothing_is_half_applied(
    ada: Watched, office: Office, recording: Recording
) -> None:
    known = recording.devices()[0]
    opened(ada, office, f"device/{known}")
    ada.page.get_by_role("button", name="Own limits…").click()
    confirm(ada, "slow it down")
    ada.page.get_by_text("give rate, burst or both").wait_for()
    assert office.taken() == []
    confirm(ada, "slow it down", rate="0.5", burst="2")
    closed(ada)
    ((asked, record),) = office.taken()
    assert (asked, record["rate"], record["burst"]) == (f"device/{known}", 0.5, 2.0)
    assert record["limits_until_ms"] > 0
    ada.page.get_by_role("button", name="Default limits…").click()
    confirm(ada, "it behaves")
    closed(ada)
    ((_, record),) = office.taken()
    assert "rate" not in record and "burst" not in record
    for way_out in ("Cancel", "Escape"):
        ada.page.get_by_role("button", name="Block…").click()
        ada.page.locator("dialog[open]").wait_for()  # a key that comes before it goes to the page
        if way_out == "Escape":
            ada.page.keyboard.press(way_out)
        else:
            ada.page.get_by_role("button", name=way_out).click()
        closed(ada)
    assert office.taken() == []
    assert [error for error in ada.errors if "422" not in error] == []


CHANGES_OF_THE_FIGURES = """
window.changes = 0;
new MutationObserver(() => { window.changes += 1; }).observe(
  document.querySelector("main dl.figures"), { subtree: true, childList: true, characterData: true });
"""


def test_what_is_typed_into_a_dialog_stays_while_the_page_refreshes(ada: Watched, office: Office) -> None:
    opened(ada, office, "control")
    ada.page.get_by_role("button", name="Set the rate…").click()
    rate = ada.page.locator("dialog [name=rate]")
    rate.fill("5000")
    ada.page.evaluate(CHANGES_OF_THE_FIGURES)
    wait_for(lambda: ada.page.evaluate("window.changes") >= 3, 30, "the figures to change")
    assert rate.input_value() == "5000"


def test_the_rate_is_set_left_to_the_controller_and_released(ada: Watched, office: Office) -> None:
    opened(ada, office, "control")
    ada.page.get_by_role("button", name="Set the rate…").click()
    confirm(ada, "too low", rate="1")
    assert ada.page.locator("dialog [name=rate]:invalid").count() == 1  # the form itself says what is too low
    assert office.taken() == []
    confirm(ada, "maintenance", rate="5000")
    closed(ada)
    ((asked, record),) = office.taken()
    assert (asked, record["mode"], record["rate"]) == ("override", "manual", 5000.0)
    for button, mode in (("Let the controller set it…", "auto"), ("End the override…", None)):
        ada.page.get_by_role("button", name=button).click()
        confirm(ada, "over")
        closed(ada)
        ((asked, record),) = office.taken()
        assert (asked, record.get("mode")) == ("override", mode)
    assert ada.errors == []


def test_buttons_that_change_something_say_who_may_press_them(tab: Tab, office: Office, recording: Recording) -> None:
    shown = tab()
    for path, button in (
        ("incidents", "Acknowledge incident"),
        ("control", "Set the rate…"),
        (f"device/{recording.devices()[0]}", "Block…"),
    ):
        opened(shown, office, path)
        assert shown.page.get_by_role("button", name=button).is_disabled()
        shown.page.locator("main small", has_text="to change something").wait_for()
    opened(shown, office, "login")
    shown.page.get_by_label("Your name").fill("Eve")
    shown.page.get_by_label("Token").fill("guessed")
    shown.page.locator("main button").click()
    shown.page.get_by_text("this is not a token").wait_for()


def test_the_settings_that_are_given_are_shown_with_their_place_and_no_secret(tab: Tab, office: Office) -> None:
    shown = opened(tab(), office, "about")
    table = shown.page.get_by_role("region", name="Settings of this worker")
    table.get_by_text("KLAIS_PARTITIONS").wait_for()
    rows = [row.split("\t") for row in table.locator("tbody tr").all_inner_texts()]
    found = {row[0]: [cell.strip() for cell in row[1:]] for row in rows}
    assert found.keys() == ENVIRON.keys()
    assert found["KLAIS_PARTITIONS"] == ["9", "4", "the environment"]
    assert TOKEN not in shown.page.content() and found["KLAIS_API_TOKEN"][0] != "not set"
    assert shown.errors == []


def test_who_logs_out_can_change_nothing(ada: Watched, office: Office) -> None:
    ada.page.get_by_role("link", name="Ada").click()
    ada.page.get_by_role("button", name="Log out").click()
    ada.page.locator(".tools").get_by_role("link", name="Log in").wait_for()
    opened(ada, office, "control")
    assert ada.page.get_by_role("button", name="Set the rate…").is_disabled()
    assert ada.errors == []
