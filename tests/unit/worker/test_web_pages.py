"""The pages: what they answer over real lane states, and errors of one shape."""

import time
from dataclasses import replace

import numpy as np
import orjson
import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.wire.constants import encode_frame
from klais.core.wire.partition import partition_of
from klais.http.response_cache import Gate
from klais.kafka.end_offsets import Sample
from klais.telemetry.schema import Restoring
from klais.worker.readiness import Readiness
from klais.worker.rows import Cursor
from klais.worker.web.devices import SEARCHES
from klais.worker.web.queries import write_cursor
from tests.support.incidents import follower_with, incident
from tests.support.lane import bounds, frames, limits
from tests.support.views import PARTITIONS, fake_lane, feed, get, make_views

S = 1_000_000_000
NOW = time.time_ns()


@pytest.fixture
def views():
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    views = make_views(lanes)
    feed(lanes, frames(*((f"dev-{i}", 1) for i in range(20))), NOW - S, 0)
    feed(lanes, frames(*((f"dev-{i}", 2) for i in range(10))), NOW, 1)
    return views


async def body_of(views, page, path=None, status=200, **kwargs):
    answer = await get(views, page, path, **kwargs)
    assert answer.status == status, answer.body
    return orjson.loads(answer.body)


async def test_devices_are_paged_and_sorted(views):
    body = await body_of(views, "/devices/", "/devices/?sort=received&size=10&order=desc")
    assert [item["received"] for item in body["items"]] == [2] * 10
    assert body["total"] == 20 and body["partitions"] == [0, 1]
    second = await body_of(views, "/devices/", "/devices/?sort=received&size=10&order=desc&page=2")
    names = {item["device_id"] for item in body["items"] + second["items"]}
    assert names == {f"dev-{i}" for i in range(20)}


async def test_devices_can_be_searched(views):
    body = await body_of(views, "/devices/", "/devices/?q=-1&sort=device_id")
    assert [item["device_id"] for item in body["items"]] == ["dev-1", *(f"dev-{i}" for i in range(10, 20))]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("size=501", "size"),
        ("size=0", "size"),
        ("page=x", "page"),
        ("page=-1", "page"),
        ("page=%C2%B2", "page"),
        ("sort=nothing", "sort"),
        ("order=up", "order"),
        ("state=odd", "state"),
        ("q=", "q"),
        ("q=12345678901234567", "q"),
        ("what=1", "what"),
        ("scope=all&page=100&size=100", "page"),
    ],
)
async def test_bad_query_says_which_parameter(views, query, parameter):
    body = await body_of(views, "/devices/", f"/devices/?{query}", status=400)
    assert body["code"] == "bad_parameter"
    assert body["details"]["parameter"] == parameter


async def test_a_device_by_its_id(views):
    body = await body_of(views, "/devices/{device_id}/", "/devices/dev-3/")
    assert body["counters"]["received"] == 2
    assert body["window"] == {"highest": 2, "size": 32, "received": 2, "numbers": [1, 2]}
    assert [feature["feature"] for feature in body["profile"]] == ["interval_s", "payload_bytes", "t"]
    assert body["partition"] == partition_of(b"dev-3", PARTITIONS)


async def test_odd_device_ids_are_found(views):
    name = 'a/"ä\n'
    feed(views.lanes.by_partition, [encode_frame(name, 1, b"{}")], NOW, 2)
    body = await body_of(views, "/devices/{device_id}/", "/devices/a%2F%22%C3%A4%0A/")
    assert body["device_id"] == name


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/devices/nobody/", 404, "unknown_device"),
        ("/devices/%FF/", 400, "bad_device_id"),
        ("/devices/12345678901234567/", 400, "bad_device_id"),
        ("/devices/a%00b/", 400, "bad_device_id"),
        ("/devices/dev-1/?x=1", 400, "bad_parameter"),
    ],
)
async def test_devices_that_are_not_there(views, path, status, code):
    body = await body_of(views, "/devices/{device_id}/", path, status=status)
    assert body["code"] == code and set(body) == {"error", "code", "details"}


async def test_a_device_of_another_worker_is_asked_there(views):
    partition = partition_of(b"dev-1", PARTITIONS)
    del views.lanes.by_partition[partition]
    for page in ("/devices/{device_id}/", "/devices/{device_id}/why/"):
        await get(views, page, page.replace("{device_id}", "dev-1"))
    assert views.peers.forwarded == [partition, partition]


async def test_a_limit_that_is_almost_nothing_has_no_end_to_show(views):
    control = ControlFollower(Settings())
    control.consume("device/dev-1", b'{"rate":1e-300,"burst":1}')
    views = make_views(views.lanes.by_partition, control)
    state = views.lanes.by_partition[partition_of(b"dev-1", PARTITIONS)].session.state
    state.rows["tokens"][state.find(b"dev-1")] = 0.0
    body = await body_of(views, "/devices/{device_id}/why/", "/devices/dev-1/why/")
    (rule,) = (rule for rule in body["rules"] if rule["rule"] == "device_rate")
    assert rule["active"] and rule["until"] is None and "in more than 30 years" in rule["explanation"]


async def test_a_recovering_lane_says_come_again(views):
    views.lanes.by_partition[partition_of(b"dev-1", PARTITIONS)].live.clear()
    answer = await get(views, "/devices/{device_id}/", "/devices/dev-1/")
    assert answer.status == 503 and answer.headers["Retry-After"] == "1"
    lane = views.lanes.by_partition[partition_of(b"dev-1", PARTITIONS)]
    lane.seen = {"restoring": Restoring(stage="replay", share=0.61)}
    answer = await get(views, "/devices/{device_id}/", "/devices/dev-1/")
    assert "is recovering (61 % of the journal replayed): try again" in orjson.loads(answer.body)["error"]


async def test_all_workers_are_merged_in_order(views):
    mine = await body_of(views, "/devices/", "/devices/?sort=device_id&size=3")
    words = {name: np.frombuffer(name.encode().ljust(16, b"\0"), ">u8").tolist() for name in ("dev-0a", "zz")}
    places = {name: write_cursor(Cursor(0.0, (first, second))) for name, (first, second) in words.items()}
    other = {
        "items": [mine["items"][0] | {"device_id": name, "place": place} for name, place in places.items()],
        "total": 2,
        "partitions": [7],
        "devices_by_state": {"normal": 2},
    }
    views.peers.bodies = {"http://b": other, "http://c": None}
    body = await body_of(views, "/devices/", "/devices/?sort=device_id&size=3&scope=all")
    assert [item["device_id"] for item in body["items"]] == ["dev-0", "dev-0a", "dev-1"]
    assert body["next"] == body["items"][-1]["place"]
    assert body["total"] == 22 and body["partitions"] == [0, 1, 7]
    assert body["workers_missing"] == ["http://c"] and body["partitions_missing"] == []
    assert views.peers.asked == ["/devices/?sort=device_id&order=asc&page=1&size=3"]


async def test_a_list_names_the_partitions_without_a_live_lane(views):
    views.lanes.by_partition[1].live.clear()
    for scope in ("all", "worker"):
        body = await body_of(views, "/devices/", f"/devices/?scope={scope}")
        assert (body["partitions"], body["partitions_missing"]) == ([0], [1])
    del views.lanes.by_partition[1]
    assert (await body_of(views, "/devices/", "/devices/?scope=all"))["partitions_missing"] == [1]
    assert (await body_of(views, "/devices/", "/devices/?scope=worker"))["partitions_missing"] == []


class Reusing(Gate):
    """Lets a lane forget the first device on a page, and give its row to a new one, after each search."""

    def __init__(self, lanes, times):
        super().__init__()
        self.lanes, self.times = lanes, times

    async def run(self, compute):
        found = await super().run(compute)
        if self.times:
            self.times -= 1
            part, row, _ = found.page[0]
            state = part.state
            assert state.forget(state.rows["id"][row : row + 1].copy().view(np.uint8), state.step + 1) == 1
            news = (f"new-{k}" for k in range(1000 * self.times, 9999))
            new = next(name for name in news if partition_of(name.encode(), PARTITIONS) == part.partition)
            feed(self.lanes, frames((new, 1)), NOW, 100 + self.times)
            assert state.find(new.encode()) == row, "the row was not reused"
        return found


@pytest.mark.parametrize("times", [1, SEARCHES])
async def test_a_row_that_another_device_took_meanwhile_is_not_shown_in_its_place(views, times):
    lanes = views.lanes.by_partition
    before = [item["device_id"] for item in (await body_of(views, "/devices/", "/devices/?sort=device_id"))["items"]]
    views = replace(views, gate=Reusing(lanes, times))
    body = await body_of(views, "/devices/", "/devices/?sort=device_id&size=5")
    names = [item["device_id"] for item in body["items"]]
    # After the last search a page omits what is gone, and the next page continues behind its place all the same.
    assert names == before[times : times + 5 - (times == SEARCHES)]
    assert body["next"] == body["items"][-1]["place"]


async def test_a_cursor_of_a_list_in_another_order_is_refused(views):
    place = (await body_of(views, "/devices/", "/devices/?sort=received&size=5"))["next"]
    again = await body_of(views, "/devices/", f"/devices/?sort=received&size=5&after={place}")
    assert len(again["items"]) == 5
    for path in (f"/devices/?sort=device_id&after={place}", f"/anomalies/?after={place}"):
        refused = await body_of(views, path.partition("?")[0], path, status=400)
        assert refused["details"]["parameter"] == "after" and "sorted by received" in refused["error"]


async def test_devices_with_queued_frames_and_those_silent_for_many_intervals():
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    views = make_views(lanes)
    slow, now = [(f"slow-{i}", 1) for i in range(6)], time.time_ns()
    for second in range(4):  # an interval of 1 s
        feed(lanes, frames(*((f"slow-{i}", second) for i in range(6))), now - (9000 - second) * S, second)
    assert (await body_of(views, "/devices/", "/devices/?queued=true"))["total"] == 0
    for nth in range(4):  # an interval of 2,000 s, and more frames than the rate permits
        late = frames(*((f"late-{i}", 9 * nth + k) for i in range(6) for k in (1, 2)))
        feed(lanes, late, now - (6000 - 2000 * nth) * S, 10 + nth, lim=limits(rate=0.0001, burst=1.0))
    queued = await body_of(views, "/devices/", "/devices/?queued=true&size=500")
    waiting = {p: {bytes(word) for word in lane.session.state.queue.waiting_ids().view("S16").ravel()}
               for p, lane in lanes.items()}  # fmt: skip
    wanted = {name.decode() for names in waiting.values() for name in names}
    assert wanted and {item["device_id"] for item in queued["items"]} == wanted
    assert not wanted & {name for name, _ in slow}
    silent = await body_of(views, "/devices/", "/devices/?silent_intervals=20&size=500")
    assert {item["device_id"] for item in silent["items"]} == {name for name, _ in slow}
    none = await body_of(views, "/devices/", "/devices/?silent_intervals=1000000")
    assert none["total"] == 0


async def test_a_forwarded_listing_is_never_sent_on(views):
    views.peers.bodies = {"http://b": None}
    path = "/devices/?scope=all&size=1000"
    body = await body_of(views, "/devices/", path, headers={"X-Klais-Forwarded": "http://b"})
    assert body["scope"] == "worker" and views.peers.asked == []


async def test_control_shows_decisions_with_their_reasons_and_overrides():
    control = ControlFollower(Settings(control_auto=True))
    for number in range(3):
        record = {"mode": "auto", "rate": 1000.0 + number, "by": "controller-x", "term": 4, "reason": "why"}
        control.consume("global", orjson.dumps(record | {"at": 1_700_000_000_000}))
    block = {"block": True, "until_ms": 4_500_000_000_000, "author": "ops", "reason": "loud"}
    control.consume("device/d", orjson.dumps(block))
    views = make_views({}, control, control_auto=True)
    body = orjson.loads((await get(views, "/control/", "/control/?limit=2")).body)
    assert (body["mode"], body["rate"], body["controller"]["term"]) == ("auto", 1002.0, 4)
    assert [decision["rate"] for decision in body["decisions"]] == [1002.0, 1001.0]
    assert body["decisions"][0]["reason"] == "why"
    assert [(o["scope"], o["author"], o["reason"]) for o in body["overrides"]] == [("device/d", "ops", "loud")]
    assert body["overrides"][0]["until_ms_iso"]
    assert sum(body["shares"].values()) == pytest.approx(1.0)
    assert (await get(views, "/control/", "/control/?limit=601")).status == 400


async def test_dam_adds_up_with_queue_drops_duplicates_and_rubbish():
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    views = make_views(lanes)
    rubbish = b"\xaa\x55" + b"x" * 20 + b"{"
    some = [*frames(*((f"dev-{i}", 1) for i in range(40))), *frames(("dev-1", 1)), rubbish]
    feed(lanes, some, NOW, 0, limits(rate=1.0, burst=5.0), bounds(queue_limit=8))
    feed(lanes, some, NOW, 0, limits(rate=1.0, burst=5.0), bounds(queue_limit=8))
    body = await body_of(views, "/dam/")
    total = body["total"]["conservation"]
    assert total["holds"] and total["received"] == 2 * 42
    assert total["passed"] == 10 and total["queued_waiting"] == 16
    assert body["total"]["dropped"]["repeated_batch"] == 42
    assert body["total"]["dropped"]["duplicate"] == 1
    assert all(lane["conservation"]["holds"] for lane in body["lanes"])
    assert body["lanes"][0]["oldest_waiting_s"] >= 0


async def test_dam_sees_frames_that_went_missing(views):
    state = views.lanes.by_partition[0].session.state
    state.queue.depth += 1
    total = (await body_of(views, "/dam/"))["total"]["conservation"]
    assert not total["holds"] and total["missing"] == -1


async def test_anomalies_show_the_newest_flag_first(views):
    lanes = views.lanes.by_partition
    for k in range(40):
        feed(lanes, frames(("odd", k, b'{"a":{"b":5}}'), ("also", k, b'{"a":{"b":5}}')), NOW + k * S, 10 + k)
    feed(lanes, frames(("odd", 41, b'{"a":{"b":500}}')), NOW + 50 * S, 60)
    feed(lanes, frames(("also", 41, b'{"a":{"b":7}}')), NOW + 51 * S, 61)
    body = await body_of(views, "/anomalies/")
    assert [item["device_id"] for item in body["items"]] == ["also", "odd"]
    flag = body["items"][1]["flag"]
    assert (flag["feature"], flag["value"], flag["expected"]) == ("a.b", 500.0, 5.0)
    assert body["flags"] == {"written": 2, "suppressed": 0}
    assert body["total"] == 2


async def test_health_tells_failed_lanes(views):
    assert (await body_of(views, "/health"))["status"] == "ok"
    views.offsets.failing = 60.0
    body = await body_of(views, "/health")
    assert "Kafka has not answered for 60 s" in body["problems"][0]
    lane = views.lanes.by_partition[1]
    lane.live.clear()
    lane.failure = "LaneFenced: newer owner"
    body = await body_of(views, "/health", status=503)
    assert any(text.startswith("lane 1: LaneFenced: newer owner") for text in body["problems"])


async def test_a_worker_lives_whatever_kafka_and_its_lanes_do(views):
    views.offsets.failing = 60.0
    lane = views.lanes.by_partition[1]
    lane.live.clear()
    lane.failure = "LaneFenced: newer owner"
    busy = replace(views, readiness=lambda: Readiness(("lane 1 to become live",)))
    assert (await body_of(busy, "/livez"))["live"] is True


async def test_ready_says_what_the_worker_waits_for(views):
    assert await body_of(views, "/readyz") == {"ready": True, "waiting_for": [], "worker": "w1", "partitions": [0, 1]}
    busy = replace(views, readiness=lambda: Readiness(("the rebalance to end",)))
    body = await body_of(busy, "/readyz", status=503)
    assert body["ready"] is False and body["waiting_for"] == ["the rebalance to end"]


async def test_metrics_are_prometheus_text(views):
    views.offsets.sample = Sample(0.0, {("klais_raw", 0): 12, ("klais_raw", 1): 2})
    answer = await get(views, "/metrics")
    assert b'klais_packets_received_total{stage="lane"} 30.0' in answer.body
    assert b'klais_lag_records{partition="0"} 10.0' in answer.body
    assert answer.headers["Content-Type"].startswith("text/plain")


async def test_a_defect_is_an_answer_too(views):
    views.lanes.by_partition[0].session = object()
    body = await body_of(views, "/dam/", status=500)
    assert body["code"] == "internal_error"


async def test_why_of_a_blocked_and_of_a_queued_device():
    control = ControlFollower(Settings())
    until_ms = NOW // 1_000_000 + 3_600_000
    control.consume("device/dev-1", b'{"block":true,"author":"ann","reason":"noise","until_ms":%d,"at":1}' % until_ms)
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    views = make_views(lanes, control, dam_max_rate=2, dam_burst_size=2)
    unheard = await body_of(views, "/devices/{device_id}/why/", "/devices/dev-1/why/")
    assert (unheard["verdict"], unheard["last_seen"]) == ("blocked", None)
    feed(lanes, frames(("dev-1", 0)), NOW, 0, limits())
    lim = limits(rate=1.0, burst=1.0)
    feed(lanes, frames(*((f"dev-{i}", 1) for i in range(12))), NOW, 1, lim, bounds(blocked=[b"dev-1"]))
    path = "/devices/{device_id}/why/"
    body = await body_of(views, path, "/devices/dev-1/why/")
    assert body["verdict"] == "blocked"
    rule = body["rules"][0]
    assert (rule["by"], rule["reason"], rule["dropped"]) == ("ann", "noise", 1)
    assert rule["since"] == "1970-01-01T00:00:00.001Z" and rule["until"] is not None
    state = lanes[0].session.state
    waiting = state.queue.waiting()
    waits = [waiting.device_id(i) for i in range(waiting.count)]
    body = await body_of(views, path, f"/devices/{waits[-1].decode()}/why/")
    assert body["verdict"] == "queued"
    dam = body["rules"][2]
    assert (dam["waiting"], dam["ahead"], dam["queue_depth"]) == (1, len(waits) - 1, len(waits))
    listed = await body_of(views, "/devices/", "/devices/?state=blocked")
    assert [item["device_id"] for item in listed["items"]] == ["dev-1"]


async def test_why_of_a_device_above_its_rate():
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    views = make_views(lanes, dam_device_rate=0.01, dam_device_burst=3)
    lim = limits(device_rate=0.01, device_burst=3.0)
    feed(lanes, frames(*(("loud", k) for k in range(10))), time.time_ns(), 0, lim)
    body = await body_of(views, "/devices/{device_id}/why/", "/devices/loud/why/")
    assert body["verdict"] == "device_rate"
    rule = body["rules"][1]
    assert rule["active"] and rule["dropped"] == 7
    assert rule["since"] < rule["until"]


async def test_incidents_are_the_same_on_every_worker():
    known = [incident(i) for i in range(3)]
    views = make_views({}, follower_with(*known))
    body = await body_of(views, "/incidents/", "/incidents/?size=2")
    assert [item["id"] for item in body["items"]] == [known[2].id, known[1].id] and body["next"]
    rest = await body_of(views, "/incidents/", f"/incidents/?after={body['next']}")
    assert [item["id"] for item in rest["items"]] == [known[0].id] and rest["next"] is None
    one = await body_of(views, "/incidents/{incident_id}/", f"/incidents/{known[1].id}/")
    assert one["devices"] == 3 and one["explanation"].endswith(".")
    gone = await body_of(views, "/incidents/{incident_id}/", "/incidents/i-0000000000/", status=404)
    assert gone["code"] == "unknown_incident"
    bad = await body_of(views, "/incidents/", "/incidents/?after=x", status=400)
    assert bad["details"]["parameter"] == "after"
