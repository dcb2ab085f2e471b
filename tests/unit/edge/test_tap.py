"""Taps of an edge: what matches, what is shown of frames that are refused, and that nobody pays while nobody looks."""

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from klais.cli import tap as cli
from klais.cli.main import main
from klais.core.wire.constants import Reason, encode_frame
from klais.edge.api.server import make_app
from klais.edge.api.tap import PATH
from klais.edge.tap import EdgeFilter, EdgeTaps
from klais.http.access import Access, digest
from klais.telemetry.sample import MAX_PAYLOAD_BYTES, MAX_TAPS
from klais.telemetry.tap_choices import EDGE_VERDICTS, LANE_VERDICTS
from tests.support.http import FakeState, make_guard, served
from tests.unit.edge.test_spine import build

TOKEN = "a-token-for-changes-0123456789"
GUARDED = Access(change=(digest(TOKEN),), read=(digest(TOKEN), digest("r" * 20)), changes_need=True, reads_need=False)
MIXED = [
    encode_frame("dev-1", 1, b'{"a":1}'),
    encode_frame("dev-2", 7, b"{"),  # a lane will say bad_json
    b"GET / HTTP/1.1\r\n\x1b[31m host",
    b"\xaa\x55short",
    encode_frame("oth-1", 3, b"x" * 5000),
]
ALL = [
    ("dev-1", 1, "passed", None),
    ("dev-2", 7, "passed", None),
    (None, None, "malformed", "bad_magic"),
    (None, None, "malformed", "too_short"),
    ("oth-1", 3, "malformed", "too_long"),
]


def tapped(wanted: EdgeFilter, *calls: list[bytes]) -> dict[str, Any]:
    spine, _ = build(list(calls), frame_max=2072)
    tap = spine.taps.get(wanted)
    assert tap is not None
    for _call in calls:
        spine.round(spine.source.fill(0), 0)
    found: dict[str, Any] = json.loads(tap.event()[1])
    return found


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (EdgeFilter(), [0, 1, 2, 3, 4]),
        (EdgeFilter(device_id=b"dev-1"), [0]),
        (EdgeFilter(prefix=b"dev-"), [0, 1]),
        (EdgeFilter(verdict="passed"), [0, 1]),
        (EdgeFilter(verdict="dropped"), [2, 3, 4]),
        (EdgeFilter(verdict="malformed"), [2, 3, 4]),
        (EdgeFilter(reason="bad_magic"), [2]),
        (EdgeFilter(reason="global_rate"), []),
        (EdgeFilter(device_id=b"oth-1", verdict="passed"), []),
    ],
)
def test_a_tap_shows_what_it_asks_for(wanted: EdgeFilter, places: list[int]) -> None:
    found = tapped(wanted, MIXED)
    shown = [(row["device_id"], row["seq"], row["verdict"], row["reason"]) for row in found["frames"]]
    assert (found["matched"], shown) == (len(places), [ALL[place] for place in places])


def test_refused_frames_are_shown_as_text_with_their_sender() -> None:
    rows = tapped(EdgeFilter(), MIXED)["frames"]
    assert rows[0]["payload"] == '{"a":1}' and rows[0]["partition"] is not None and rows[0]["edge"] == 3
    assert rows[2]["payload"] == "GET / HTTP/1.1\r\n\x1b[31m host" and rows[2]["partition"] is None
    assert rows[3]["payload"] == "\\xaaUshort" and rows[3]["bytes"] == 7
    assert rows[4]["payload"] == "x" * MAX_PAYLOAD_BYTES + "..." and rows[4]["bytes"] > 5000
    assert {row["source"] for row in rows} == {"10.1.2.3:5000"}
    assert all(cli.is_sample({"matched": 1, "frames": [row]}) for row in rows), "the command takes them"


def test_frames_above_the_limit_of_the_host_are_dropped_ones() -> None:
    spine, _ = build([MIXED])
    spine.shedder.limit(1.0, 1.0)
    tap = spine.taps.get(EdgeFilter(verdict="dropped", reason="global_rate"))
    assert tap is not None
    spine.round(spine.source.fill(0), 0)
    assert json.loads(tap.event()[1])["matched"] == spine.counts.by_reason[Reason.GLOBAL_RATE] > 0


def test_a_sample_is_bounded() -> None:
    many = [[encode_frame(f"d{k}", n, b"{}") for n in range(64)] for k in range(20)]
    found = tapped(EdgeFilter(sample=10), *many)
    assert (found["matched"], len(found["frames"])) == (1280, 10)
    assert len({row["device_id"] for row in found["frames"]}) > 1, "not only the first of a second"


def test_nothing_is_looked_at_while_no_tap_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EdgeTaps, "observe", lambda *_: 1 / 0)
    spine, _ = build([MIXED])
    spine.round(spine.source.fill(0), 0)
    assert spine.counts.received == 5


def test_a_tap_that_fails_is_no_failure_of_the_data_path(monkeypatch: pytest.MonkeyPatch) -> None:
    spine, _ = build([MIXED])
    tap = spine.taps.get(EdgeFilter())
    monkeypatch.setattr(tap, "observe", lambda *_: 1 / 0)
    spine.round(spine.source.fill(0), 0)
    assert spine.counts.received == 5 and not spine.taps.open


def test_the_command_knows_what_an_edge_says() -> None:
    assert set(EDGE_VERDICTS) <= set(LANE_VERDICTS), "the option takes them all"
    for words in (["--stage", "edge", "--verdict", "queued"], ["--reason", "bad_magic", "--verdict", "released"]):
        ran = CliRunner().invoke(main, ["tap", "--url", "http://127.0.0.1:9", "--for", "1s", *words])
        assert ran.exit_code != 0
    ran = CliRunner().invoke(main, ["tap", "--stage", "edge", "--reason", "bad_json"])
    assert ran.exit_code == 2 and "--stage edge has no reason bad_json; there are too_short" in ran.stderr
    ran = CliRunner().invoke(main, ["tap", "--stage", "edge", "--url", "http://127.0.0.1:9"])
    assert ran.exit_code == 1 and "no edge answers at http://127.0.0.1:9 (--url)" in ran.stderr


@pytest.fixture
def guarded() -> Iterator[tuple[str, EdgeTaps]]:
    taps = EdgeTaps(1)
    with served(make_app(FakeState(), make_guard(access=GUARDED), 1000, taps)) as (url, _):
        yield url, taps


async def test_payloads_need_the_token_for_changes(guarded: tuple[str, EdgeTaps]) -> None:
    url, taps = guarded
    async with aiohttp.ClientSession() as client:
        for headers in ({}, {"Authorization": "Bearer " + "r" * 20}):
            async with client.get(url + PATH, headers=headers) as answer:
                assert answer.status == 401 and not taps.open
        right = {"Authorization": f"Bearer {TOKEN}"}
        for query in ("verdict=queued", "reason=bad_json", "sample=0", "x=1"):
            async with client.get(f"{url}{PATH}?{query}", headers=right) as answer:
                assert answer.status == 400 and not taps.open
        for n in range(MAX_TAPS):
            taps.get(EdgeFilter(sample=n + 1))
        async with client.get(f"{url}{PATH}?device_id=x", headers=right) as answer:
            assert answer.status == 429 and (await answer.json())["code"] == "too_many_taps"


def test_the_command_shows_what_an_edge_receives(
    guarded: tuple[str, EdgeTaps], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, taps = guarded
    monkeypatch.setenv("KLAIS_API_TOKEN", TOKEN)
    spine, _ = build([], frame_max=2072)
    spine.taps = taps
    real = taps.get

    def opened(wanted: EdgeFilter) -> Any:
        """A batch arrives as soon as somebody looks."""
        tap = real(wanted)
        spine.source.calls.append(MIXED)  # type: ignore[attr-defined]
        spine.round(spine.source.fill(0), 0)
        return tap

    monkeypatch.setattr(taps, "get", opened)
    ran = CliRunner().invoke(
        main, ["tap", "--stage", "edge", "--url", url, "-n", "3", "--for", "60s", "--verdict", "dropped", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["reason"] for row in rows] == ["bad_magic", "too_short", "too_long"]
    assert "taps 1 edge, at most 20 frames/s" in ran.stderr


async def test_several_edges_say_where_they_are() -> None:
    app = make_app(FakeState(), make_guard(), 1000, lambda: ["http://127.0.0.1:4001", "http://127.0.0.1:4002"])
    with served(app) as (url, _):
        async with aiohttp.ClientSession() as client, client.get(url + PATH) as answer:
            body = await answer.json()
    assert answer.status == 409 and body["error"].endswith("--url: http://127.0.0.1:4001, http://127.0.0.1:4002")
