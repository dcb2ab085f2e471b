"""Taps: what matches, how much is shown, who may look, and that nothing is left when nobody looks."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from click.testing import CliRunner

from klais.cli.main import main
from klais.core.lane.state import LaneState
from klais.core.lane.step import Step, forget, release, take_poison, take_raw
from klais.core.wire.constants import VERDICTS, Reason
from klais.http.access import Access, digest
from klais.http.connections import ConnectionLimits, Listener
from klais.http.session import COOKIE, sign
from klais.telemetry import sample as module
from klais.telemetry.sample import KEPT_S, MAX_TAPS
from klais.telemetry.tap_choices import LANE_REASONS, MAX_SAMPLE
from klais.worker.tap import Filter, Tap, Taps
from klais.worker.web.tap import PATH, install
from tests.support.http import make_guard
from tests.support.lane import T0_NS, batch, bounds, frames, limits

MIXED = [*frames(("dev-1", 1), ("dev-2", 1), ("dev-1", 2), ("oth-1", 1), ("dev-2", 2, b"{")), b"rubbish"]


def decided(some: list[bytes] | None = None, **changed: Any) -> Step:
    state = LaneState()
    return take_raw(state, 0, batch(some or MIXED), limits(**changed), bounds(blocked=(b"oth-1",)), T0_NS)


def seen(wanted: Filter, *steps: Step) -> tuple[int, list[tuple[str | None, str, str | None]]]:
    tap = Tap(wanted)
    for step in steps:
        tap.observe(3, step)
    body = json.loads(tap.event()[1])
    return body["matched"], [(row["device_id"], row["verdict"], row["reason"]) for row in body["frames"]]


ALL = [
    ("dev-1", "passed", None),
    ("dev-2", "passed", None),
    ("dev-1", "passed", None),
    ("oth-1", "dropped", "blocked"),
    ("dev-2", "malformed", "bad_json"),
    (None, "malformed", "too_short"),
]


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (Filter(), [0, 1, 2, 3, 4, 5]),
        (Filter(device_id=b"dev-1"), [0, 2]),
        (Filter(device_id=b"dev-"), []),
        (Filter(prefix=b"dev-"), [0, 1, 2, 4]),
        (Filter(prefix=b"dev-2", verdict="malformed"), [4]),
        (Filter(verdict="passed"), [0, 1, 2]),
        (Filter(verdict="dropped"), [3, 4, 5]),
        (Filter(reason="blocked"), [3]),
        (Filter(verdict="queued"), []),
        (Filter(verdict="released"), []),
        (Filter(verdict="flagged"), []),
    ],
)
def test_a_tap_shows_what_it_asks_for(wanted: Filter, places: list[int]) -> None:
    matched, found = seen(wanted, decided())
    assert (matched, found) == (len(places), [ALL[place] for place in places])


def test_frames_that_wait_are_shown_twice() -> None:
    state = LaneState()
    slow = limits(rate=1.0, burst=1.0)
    first = take_raw(state, 0, batch(frames(("a", 1), ("b", 1), ("c", 1))), slow, bounds(), T0_NS)
    let_out = release(state, slow, T0_NS + 1_000_000_000, 10)
    assert let_out is not None
    assert seen(Filter(verdict="queued"), first, let_out)[1] == [("b", "queued", None), ("c", "queued", None)]
    assert seen(Filter(verdict="released"), first, let_out)[1] == [("b", "released", None)]
    assert seen(Filter(device_id=b"b"), first, let_out)[0] == 2
    assert seen(Filter(reason="blocked"), first, let_out)[0] == 0


def test_whole_records_and_steps_without_frames() -> None:
    state = LaneState()
    steps = [
        take_raw(state, 0, b"\x1b[31mnot ours", limits(), bounds(), T0_NS),
        take_poison(state, 1, batch(MIXED), "because", limits(), T0_NS),
        forget(state, np.zeros((1, 16), np.uint8), limits(), T0_NS),
    ]
    whole = [(None, "dropped", "corrupt_batch"), (None, "dropped", "poison")]
    assert seen(Filter(), *steps) == (2, whole)
    assert seen(Filter(reason="poison"), *steps) == (1, whole[1:])
    assert seen(Filter(device_id=b"a"), *steps) == seen(Filter(verdict="passed"), *steps) == (0, [])


def test_every_reason_of_a_verdict_can_be_asked_for() -> None:
    assert set(LANE_REASONS) >= {reason.label for reason in Reason if Reason.DUPLICATE <= reason < VERDICTS}
    for name in LANE_REASONS:
        seen(Filter(reason=name), decided())


def test_a_sample_is_even_and_bounded() -> None:
    steps = [decided(frames(*((f"d{k}", n) for n in range(500)))) for k in range(10)]
    tap = Tap(Filter(sample=100))
    for step in steps:
        tap.observe(0, step)
    body = json.loads(tap.event()[1])
    assert (body["matched"], len(body["frames"])) == (5000, 100)
    by_device = {row["device_id"] for row in body["frames"]}
    assert len(by_device) > 5, "not only the first of a second"
    order = [(row["device_id"], row["seq"]) for row in body["frames"]]
    assert order == sorted(order), "in the order of their coming"
    assert json.loads(tap.event()[1]) == {"matched": 0, "frames": []}


def test_hostile_frames_are_shown_as_text() -> None:
    odd, huge = ("\x1b[2J\u202e", 1, b"\xff\xfe\x00" * 100), ("b", 1, b'"' + b"x" * 60_000)
    some = [*frames(odd, huge), b"\xaa\x55" + b"\xff" * 40]
    tap = Tap(Filter())
    tap.observe(0, decided(some))
    body = tap.event()[1]
    assert b"\n" not in body and len(body) < 10_000
    rows = json.loads(body)["frames"]
    assert rows[0]["device_id"] == "\x1b[2J\u202e" and rows[1]["payload"].endswith("...") and rows[1]["bytes"] > 60_000


def test_taps_are_few_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = Taps()
    clock = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    found = [taps.get(Filter(sample=n + 1)) for n in range(MAX_TAPS)]
    assert all(found) and taps.get(Filter(device_id=b"x")) is None
    assert taps.get(Filter(sample=1)) is found[0], "those with equal filters share a tap"
    clock[0] = KEPT_S + 1
    assert found[0] is not None
    found[0].event()
    taps.observe(0, decided())
    assert list(taps.open.values()) == [found[0]], "the others have no viewer"
    clock[0] *= 3
    taps.observe(0, decided())
    assert not taps.open


def test_a_tap_that_fails_is_no_failure_of_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = Taps()
    tap = taps.get(Filter())
    monkeypatch.setattr(tap, "observe", lambda *_: 1 / 0)
    taps.observe(0, decided())
    assert not taps.open


TOKEN = "a-token-for-changes-0123456789"
GUARDED = Access(change=(digest(TOKEN),), read=(digest(TOKEN), digest("r" * 20)), changes_need=True, reads_need=False)


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[str, aiohttp.ClientSession, Taps]]:
    taps, guard, app = Taps(), make_guard(access=GUARDED), web.Application()
    guard.install(app)
    install(app, taps, guard)
    listener = Listener(app, "127.0.0.1", 0, ConnectionLimits(total=50, per_client=50))
    port = await listener.start()
    async with aiohttp.ClientSession() as client:
        yield f"http://127.0.0.1:{port}{PATH}", client, taps
    await listener.stop()


async def test_payloads_need_the_token_for_changes(guarded: Any) -> None:
    url, client, taps = guarded
    for headers in ({}, {"Authorization": "Bearer " + "r" * 20}, {"Cookie": f"{COOKIE}=x.y"}):
        async with client.get(url, headers=headers) as answer:
            assert answer.status == 401 and not taps.open
    cookie = {"Cookie": f"{COOKIE}={sign(digest(TOKEN), 'tap', for_s=60)}"}
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, cookie):
        async with client.get(url, headers=headers) as answer:
            assert answer.status == 200 and answer.content_type == "text/event-stream"
    async with client.get(url, headers={"Cookie": f"{COOKIE}={sign(digest(TOKEN), 'tap', for_s=-1)}"}) as answer:
        assert answer.status == 401, "that session is over"


@pytest.mark.parametrize(
    "query",
    [
        "device_id=",
        "device_id=" + "x" * 17,
        "verdict=good",
        "reason=why",
        "sample=0",
        f"sample={MAX_SAMPLE + 1}",
        "x=1",
    ],
)
async def test_bad_filters_are_refused(guarded: Any, query: str) -> None:
    url, client, taps = guarded
    async with client.get(f"{url}?{query}", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 400 and (await answer.json())["code"] == "bad_parameter"
    assert not taps.open


async def test_one_tap_too_many_is_refused(guarded: Any) -> None:
    url, client, taps = guarded
    for n in range(MAX_TAPS):
        taps.get(Filter(sample=n + 1))
    async with client.get(f"{url}?device_id=x", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 429 and (await answer.json())["code"] == "too_many_taps"


async def test_the_stream_shows_what_lanes_decide(guarded: Any) -> None:
    url, client, taps = guarded
    async with client.get(f"{url}?prefix=dev-", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        shown: list[Any] = []
        async for line in answer.content:
            if line.startswith(b"data: "):
                body = json.loads(line[6:])
                if body["frames"]:
                    shown = body["frames"]
                    break
                taps.observe(0, decided())
        assert [row["device_id"] for row in shown] == ["dev-1", "dev-2", "dev-1", "dev-2"]


def test_the_command_says_who_does_not_answer() -> None:
    ran = CliRunner().invoke(main, ["tap", "--url", "http://127.0.0.1:9", "--for", "1s"])
    assert ran.exit_code == 1 and "no worker answers" in ran.stderr
    assert CliRunner().invoke(main, ["tap", "--sample", "100000/s"]).exit_code == 2
