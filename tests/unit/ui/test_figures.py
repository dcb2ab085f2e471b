"""Samples, history, status and recovery: figures of processes as the page shows them."""

import math
from pathlib import Path

import orjson
import pytest

from klais.telemetry.snapshots import DROP_REASONS
from klais.telemetry.view import ProcessView, SystemView
from klais.ui.feed import MAX_OVERRIDES, Recovery, brief, first_overrides
from klais.ui.history import History
from klais.ui.sample import INTENDED, SERIES, Sampler
from klais.ui.status import body, drops, problems, process, sentence


def edge(at_ms: int = 0, received: float = 10.0, dropped: dict | None = None, **gauges: object) -> dict:
    return {
        "v": 1, "kind": "edge", "id": "edge-1", "at_ms": at_ms, "uptime_s": 1.0,
        "counters": {"received": 100, "passed": 90, "dropped": dropped or {}},
        "gauges": {"breaker": "closed", "processing_ms": {"p50": 1.0, "p99": 4.0, "count": 9}} | gauges,
        "rates": {"received": received, "passed": received, "dropped": 0.0},
    }  # fmt: skip


def worker(name: str = "w-1", at_ms: int = 0, **gauges: object) -> dict:
    return {
        "v": 1, "kind": "worker", "id": name, "at_ms": at_ms, "uptime_s": 1.0,
        "counters": {"received": 90, "passed": 80, "released": 5, "dropped": {"device_rate": 3}},
        "gauges": {"lanes": 2, "lanes_live": 2, "lag_records": {"0": 1, "1": 2}, "devices": 7} | gauges,
        "rates": {"received": 9.0, "passed": 8.0, "released": 0.5, "dropped": 0.5},
    }  # fmt: skip


def newest(*records: dict):
    def of(kind: str) -> dict:
        return {record["id"]: record for record in records if record["kind"] == kind}

    return of


def system(*records: dict) -> SystemView:
    return SystemView.of(newest(*records))


def test_a_sample_sums_and_takes_the_highest() -> None:
    controllers = [
        {"kind": "controller", "id": f"controller-{n}", "counters": {}, "rates": {},
         "gauges": {"epoch": n, "pid_output": 0.1 * n}} for n in (3, 5, 4)
    ]  # fmt: skip
    first = worker("w-1", cpu_share=0.2, lag_s={"0": 0.5, "1": 4.25})
    two = [first, worker("w-2", cpu_share=0.7, checkpoint_age_s=3.0)]
    found = Sampler().sample(system(edge(), *two, *controllers), 0.0)
    assert set(found) == set(SERIES)
    assert (found["edge_received"], found["worker_received"], found["worker_passed"]) == (10.0, 18.0, 17.0)
    assert (found["lag_records"], found["devices"], found["lanes_live"]) == (6.0, 14.0, 4.0)
    assert (found["cpu_share"], found["checkpoint_age_s"], found["edge_p99_ms"]) == (0.7, 3.0, 4.0)
    assert found["lag_s"] == 4.25
    assert found["pid_output"] == pytest.approx(0.5)


def test_what_no_process_reports_is_unknown_and_not_0() -> None:
    known = {name for name, value in Sampler().sample(system(), 0.0).items() if not math.isnan(value)}
    assert known == {"edges", "workers"}
    without_workers = Sampler().sample(system(edge()), 0.0)
    assert without_workers["edge_received"] == 10.0 and math.isnan(without_workers["worker_received"])
    idle = Sampler().sample(system(edge(processing_ms={"p50": 0.0, "p99": 0.0, "count": 0})), 0.0)
    assert idle["edge_received"] == 10.0 and math.isnan(idle["edge_p99_ms"])
    history = History()
    history.add(1000, Sampler().sample(system(edge(), worker()), 0.0))
    history.add(2000, Sampler().sample(system(), 1.0))
    assert orjson.loads(orjson.dumps(history.since()))["worker_passed"] == [8.5, None]
    none = {kind: {} for kind in ("edge", "worker", "controller")}
    event = body(1, Sampler().sample(system(), 0.0), none, {}, 2, {}, path=history.path())
    sent = orjson.loads(orjson.dumps(event))
    assert sent["sample"]["lag_records"] is None and sent["path"]["edge_received"] is None
    assert sent["sentence"] == "No edge has reported in the last 3 s, and 1 more."


def test_a_loss_of_one_stage_is_told_while_the_other_is_silent() -> None:
    sampler = Sampler()
    sampler.sample(system(edge(dropped={"kernel_drop": 5})), 10.0)
    seen = system(edge(dropped={"kernel_drop": 25}))
    found = problems(sampler.sample(seen, 12.0), seen, 2)
    assert found[0]["text"] == "10 frames/s are dropped unintentionally"


def test_losses_are_the_drops_that_nobody_intended() -> None:
    sampler = Sampler()
    first = sampler.sample(system(edge(dropped={"kernel_drop": 5, "too_short": 9})), 10.0)
    second = sampler.sample(system(edge(dropped={"kernel_drop": 25, "too_short": 99})), 12.0)
    restarted = sampler.sample(system(edge(dropped={"kernel_drop": 1})), 14.0)
    assert first["edge_dropped_unintended"] == 0.0
    assert second["edge_dropped_unintended"] == 10.0
    assert restarted["edge_dropped_unintended"] == 0.0


def test_every_reason_is_intended_or_not_as_the_operations_page_says() -> None:
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `") and line.count("|") == 6]
    said = {
        name.strip("` "): columns[4].strip() for columns in rows for name in columns[1].split(",") if columns[4].strip()
    }
    for reasons in DROP_REASONS.values():
        for reason in reasons:
            assert said[reason.label] == ("yes" if reason.label in INTENDED else "no"), reason.label


@pytest.mark.parametrize("rubbish", [None, "x", True, [], {"p99": "x"}])
def test_fields_of_another_type_count_as_nothing(rubbish: object) -> None:
    record = worker(queue_depth=rubbish, lag_records=rubbish, lag_s=rubbish, processing_ms=rubbish, cpu_share=rubbish)
    record["rates"]["received"] = rubbish
    record["counters"]["dropped"] = rubbish
    found = Sampler().sample(system(record), 0.0)
    assert found["queue_depth"] == found["worker_received"] == 0.0
    assert math.isnan(found["worker_p99_ms"]) and math.isnan(found["cpu_share"])  # unknown
    assert drops(ProcessView.of("w-1", record)) == []


def test_the_history_is_a_ring_and_gives_what_is_newer() -> None:
    history = History(seconds=5)
    for second in range(1, 9):
        history.add(second * 1000, dict.fromkeys(SERIES, float(second)))
    history.add(8000, dict.fromkeys(SERIES, 99.0))  # the clock did not move
    history.add(3000, dict.fromkeys(SERIES, 99.0))  # it was set back
    assert len(history) == 5
    assert history.since()["at_ms"] == [4000, 5000, 6000, 7000, 8000]
    assert history.since()["devices"] == [4.0, 5.0, 6.0, 7.0, 8.0]
    assert history.since(after_ms=6000)["at_ms"] == [7000, 8000]
    assert history.since(seconds=1)["lag_records"] == [8.0]
    assert History().since()["at_ms"] == []


def test_samples_go_on_after_the_clock_was_a_day_ahead_for_a_while() -> None:
    """Otherwise the charts would stand still for a day."""
    history, day = History(seconds=5), 86_400_000
    for at_ms in (1000, 2000, 3000, day + 4000, day + 5000, 6000, 7000):
        history.add(at_ms, dict.fromkeys(SERIES, float(at_ms)))
    found = history.since()
    assert found["at_ms"] == found["devices"] == [1000, 2000, 3000, 6000, 7000]
    for at_ms in (8000, 9000):
        history.add(at_ms, dict.fromkeys(SERIES, 1.0))
    assert history.since()["at_ms"] == [3000, 6000, 7000, 8000, 9000]


def found_problems(*records: dict, partitions: int = 2) -> list[dict]:
    seen = system(*records)
    return problems(Sampler().sample(seen, 0.0), seen, partitions)


def test_all_is_well_in_one_sentence_with_numbers() -> None:
    assert found_problems(edge(), worker()) == []
    sample = Sampler().sample(system(edge(), worker()), 0.0)
    assert sentence([], sample, sample) == "All is well: 10 frames/s arrive and 8 pass; 7 devices are known."


def test_the_rates_of_the_path_are_means_because_reports_are_not_of_one_moment() -> None:
    history, of = History(), newest(edge(), worker())
    assert history.path() == {}
    for second in range(30):  # a burst each two seconds; the worker reports it a second later
        rates = {"edge_received": 100.0 * (second % 2), "worker_passed": 100.0 * ((second + 1) % 2)}
        history.add(second * 1000 + 1, dict.fromkeys(SERIES, 0.0) | rates)
    assert history.path()["edge_received"] == history.path()["worker_passed"] == 50.0
    records = {k: of(k) for k in ("edge", "worker", "controller")}
    sample = Sampler().sample(SystemView.of(of), 0.0)
    event = body(1, sample, records, {}, 2, {}, path=history.path())
    assert event["path"]["edge_received"] == 50.0
    assert event["sentence"] == "All is well: 50 frames/s arrive and 50 pass; 7 devices are known."
    assert body(1, sample, records, {}, 2, {})["path"]["edge_received"] == 10.0  # before the first sample


@pytest.mark.parametrize(
    ("records", "severity", "part"),
    [
        ([worker()], "critical", "no edge has reported"),
        ([edge()], "critical", "no worker has reported"),
        ([edge(), worker(lanes_live=1)], "critical", "1 of 2 lanes are live"),
        ([edge(breaker="open", spooled=500), worker()], "warning", "edge-1 does not reach Kafka; 500 frames wait"),
        ([edge(spooled=5), worker()], "warning", "replays its spool: 5 frames"),
        ([edge(), worker(lag_records={"0": 2000})], "warning", "2,000 batches wait"),
        ([edge(), worker(lag_s={"0": 0.1, "1": 12.0})], "warning", "the oldest for 12 s"),
        ([edge(), worker(checkpoint_age_s=90.0)], "warning", "90 s old"),
        ([edge(), worker(late_share=0.06, latency_target_ms=100.0)], "warning", "later than KLAIS_LATENCY_MS=100"),
    ],
)
def test_a_problem_is_named_with_its_figures(records: list[dict], severity: str, part: str) -> None:
    found = found_problems(*records)
    assert [problem["severity"] for problem in found] == [severity]
    assert part in found[0]["text"]
    of = newest(*records)
    event = body(
        1, Sampler().sample(SystemView.of(of), 0.0), {k: of(k) for k in ("edge", "worker", "controller")}, {}, 2, {}
    )
    assert event["status"] == severity and part.lower() in event["sentence"].lower()


def test_a_process_is_listed_with_its_lag_and_its_kernel_filter() -> None:
    filtered = {"packets": {"pass": 5.0}, "set_points_age_s": 0.5, "limits_by": "controller", "blocked": 2}
    filtered |= {"local_blocks": [{"device_id": "dev-1", "left_s": 5.0}]}
    one, other = edge(xdp=filtered), worker(lag_s={"0": 1.5})
    assert process("edge-1", ProcessView.of("edge-1", one), one)["gauges"]["xdp"] == filtered
    assert process("w-1", ProcessView.of("w-1", other), other)["gauges"]["lag_s"] == {"0": 1.5}


def test_drops_are_listed_by_reason_with_their_meaning() -> None:
    found = drops(ProcessView.of("edge-1", edge(dropped={"spool_full": 2, "too_short": 7, "blocked": 0})))
    assert found == [
        {"reason": "too_short", "frames": 7.0, "intended": True},
        {"reason": "spool_full", "frames": 2.0, "intended": False},
    ]


def test_the_history_is_recovered_from_records_of_any_order_and_kind() -> None:
    history = History()
    recovery = Recovery(history)
    for second in (100, 101, 103):
        recovery.add(orjson.dumps(edge(at_ms=second * 1000, received=float(second))))
        recovery.add(orjson.dumps(worker(at_ms=second * 1000)))
    for rubbish in (
        None,
        b"",
        b"[]",
        b"{}",
        b"{",
        orjson.dumps({"v": 9, "id": "x", "at_ms": 5}),
        b'{"v":1,"at_ms":"x"}',
    ):
        recovery.add(rubbish)
    recovery.add(orjson.dumps(edge(at_ms=9_999_999_999_999)))  # a clock that is centuries ahead
    recovery.add(orjson.dumps(edge(at_ms=104_000)))
    found = history.since()
    assert found["at_ms"] == [100_000, 101_000, 103_000]
    assert found["edge_received"] == [100.0, 101.0, 103.0]


def test_a_viewer_gets_a_decision_in_brief() -> None:
    whole = {
        "at": 5, "rate": 7.0, "reason": "lag", "cut": 0.25, "hosts": {"a": {"rate": 1}}, "shares": {"0": 1.0},
        "inputs": {"lag": 1.0, "cpu": 0.5, "demand": 3}, "terms": {"p": 0.1, "i": 0.2, "d": 0.3, "raw": 0.6},
        "forecast": {"why": "normal", "median": 5}, "gains": {"kp": 1},
    }  # fmt: skip
    assert brief(whole) == {
        "at": 5, "rate": 7.0, "reason": "lag", "cut": 0.25, "inputs": {"lag": 1.0, "cpu": 0.5},
        "terms": {"p": 0.1, "i": 0.2, "d": 0.3}, "forecast": {"why": "normal"},
    }  # fmt: skip
    assert brief({"at": 5, "inputs": None}) == {"at": 5}


def test_blocked_devices_crowd_out_neither_sources_nor_newer_blocks() -> None:
    devices = [{"scope": f"device/d{n}", "block": True, "at": n} for n in range(MAX_OVERRIDES + 100)]
    old = {"scope": "device/of-an-older-version", "block": True}
    source, override = {"scope": "source/192.0.2.7/32", "block": True, "at": 5}, {"scope": "override", "at": 1}
    shown = first_overrides([old, *devices, override, source])
    assert len(shown) == MAX_OVERRIDES and shown[:2] == [source, override]
    assert shown[2:] == devices[: -(MAX_OVERRIDES - 1) : -1] and old not in shown


def test_what_the_kernel_filter_dropped_is_shown_with_its_reason_and_whether_it_was_intended() -> None:
    packets = {
        "pass": 9,
        "not_ours": 8,
        "too_long": 7,
        "blocked": 2,
        "global_rate": 5,
        "would_blocked": 4,
        "too_short": 0,
    }
    record = edge(xdp={"packets": packets, "limits_by": "controller"})
    shown = process("edge-1", ProcessView.of("edge-1", record), record)
    assert shown["kernel_dropped"] == [
        {"reason": "global_rate", "frames": 5, "intended": False},
        {"reason": "blocked", "frames": 2, "intended": True},
    ]
    bare = edge()
    assert process("edge-1", ProcessView.of("edge-1", bare), bare)["kernel_dropped"] == []


@pytest.mark.parametrize(
    ("gauges", "severity", "part"),
    [
        ({"spool_full_s": 5400.0}, "warning", "41 % full, and full in about 1.5 h at its present growth"),
        ({"spool_full_s": 90.0}, "critical", "full in about 1.5 min"),
        ({"spool_full_s": 0.0}, "critical", "which is full: new frames are dropped"),
        ({}, "warning", "in its spool, which is 41 % full"),
        ({"spool_max_bytes": 0}, "warning", "frames wait in its spool"),
        ({"spool_max_bytes": 1e-300}, "warning", "frames wait in its spool"),
        ({"spool_max_bytes": -5.0, "spool_full_s": -1.0}, "warning", "frames wait in its spool"),
        ({"spool_max_bytes": "x", "spool_full_s": []}, "warning", "frames wait in its spool"),
    ],
)
def test_an_outage_says_how_full_the_spool_is_and_when_it_will_be(gauges: dict, severity: str, part: str) -> None:
    outage = {"breaker": "open", "spooled": 500, "spool_bytes": 410.0, "spool_max_bytes": 1000.0}
    found = found_problems(edge(**outage | gauges), worker())
    assert [problem["severity"] for problem in found] == [severity]
    assert found[0]["text"].endswith(part) or part in found[0]["text"]


def test_a_lane_that_recovers_is_shown_with_its_progress() -> None:
    at = {"1": {"stage": "replay", "share": 0.619}, "0": {"stage": "devices", "share": 0.02}}
    record = worker(lanes_live=0, restoring=at)
    shown = process("w-1", ProcessView.of("w-1", record), record)
    assert shown["restoring"] == [
        {"partition": 0, "text": "2 % of its devices read"},
        {"partition": 1, "text": "61 % of the journal replayed"},
    ]
    (problem,) = found_problems(edge(), record)
    assert problem["text"].endswith("; lane 0: 2 % of its devices read, lane 1: 61 % of the journal replayed")
    many = worker(lanes_live=0, restoring={str(p): {"stage": "turn", "share": 0} for p in range(9)})
    assert found_problems(edge(), many)[0]["text"].endswith(", 6 more lanes recover")


@pytest.mark.parametrize(
    "rubbish",
    ["x", 5, [], {"0": {}}, {"0": {"stage": "<b>", "share": 0.5}}, {"0": {"stage": "replay", "share": 2}}, {"0": None}],
)
def test_a_progress_that_no_worker_sends_is_not_shown(rubbish: object) -> None:
    good = {"1": {"stage": "journal", "share": 0.5}, "x": {"stage": "journal", "share": 0.5}}
    sent = good | rubbish if isinstance(rubbish, dict) else rubbish
    record = worker(restoring=sent)
    shown = process("w-1", ProcessView.of("w-1", record), record)
    wanted = [{"partition": 1, "text": "50 % of the journal read"}] if isinstance(rubbish, dict) else []
    assert shown["restoring"] == wanted
    assert shown["gauges"]["lanes"] == 2


def test_gauges_of_another_type_do_not_reach_the_page() -> None:
    record = edge(spool_max_bytes="4 GiB", spool_full_s={"a": 1}, xdp={"packets": "x"}, linger_ms=5.0, cpu_share=None)
    shown = process("edge-1", ProcessView.of("edge-1", record), record)["gauges"]
    assert shown == {"breaker": "closed", "linger_ms": 5.0, "processing_ms": {"p50": 1.0, "p99": 4.0, "count": 9}}
