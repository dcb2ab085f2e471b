"""Totals of `klais up`: counted from the start, carried over restarts, and every way not to add up is told."""

from dataclasses import replace
from typing import Any

import pytest

from klais.telemetry.view import ProcessView, SystemView
from klais.verify.conservation import FrameAccount, Totals, reconcile

GOOD = Totals(
    sent=100,
    edge_received=100,
    edge_dropped={"bad_magic": 4, "kernel_drop": 1},
    published=95,
    worker_received=97,
    worker_dropped={"repeated_batch": 2, "duplicate": 5},
    queued=10,
    passed=80,
    landed=80,
)


def edge(received: int, passed: int = 0, held: int = 0, spooled: int = 0, **dropped: int) -> ProcessView:
    counters = {"received": received, "passed": passed, "dropped": dropped, "spool_recovered": spooled}
    return ProcessView.of("edge-1", {"counters": counters, "gauges": {"queue_depth": held}, "rates": {}})


def worker(received: int, passed: int, lanes: int = 4, queued: int = 0, **dropped: int) -> ProcessView:
    counters = {"received": received, "passed": passed, "dropped": dropped, "dead_letters": 1, "flags": 2}
    gauges = {"queue_depth": queued, "lanes_live": lanes}
    return ProcessView.of("worker-1", {"counters": counters, "gauges": gauges, "rates": {}})


def workers(*views: ProcessView) -> SystemView:
    return SystemView({}, {f"worker-{n}": view for n, view in enumerate(views)}, {})


def test_frames_that_are_all_accounted_for_make_no_difference() -> None:
    assert reconcile(GOOD, simulated=True, alone=True) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"edge_received": 99, "published": 94}, "1 sent frames did not reach the edge"),
        ({"published": 94}, "the edge received 100 frames and accounts for 99"),
        ({"worker_received": 96, "passed": 79, "landed": 79}, "95 frames were published and the worker received 94"),
        ({"worker_received": 98, "passed": 81, "landed": 81}, "95 frames were published and the worker received 96"),
        ({"queued": 9}, "the worker received 97 frames and accounts for 96"),
        ({"landed": 79}, "80 frames passed and 79 records landed"),
        ({"landed": 81}, "80 frames passed and 81 records landed"),
    ],
)
def test_every_stage_that_does_not_add_up_is_named(wrong: dict[str, Any], said: str) -> None:
    assert said in reconcile(replace(GOOD, **wrong), simulated=True, alone=True)


def test_senders_of_others_and_edges_of_others_are_no_difference() -> None:
    assert reconcile(replace(GOOD, sent=0), simulated=False, alone=True) == []
    assert reconcile(replace(GOOD, sent=50), simulated=True, alone=True) == []
    more = replace(GOOD, worker_received=197, passed=180, landed=180)
    assert reconcile(more, simulated=True, alone=False) == []
    assert reconcile(more, simulated=True, alone=True) != []


def test_frames_in_the_edges_hands_may_have_arrived_or_not() -> None:
    held = replace(GOOD, published=90, held=5)
    for received in (92, 94, 97):
        now = replace(held, worker_received=received, passed=received - 17, landed=received - 17)
        assert reconcile(now, simulated=True, alone=True) == []
    now = replace(held, worker_received=91, passed=74, landed=74)
    assert reconcile(now, simulated=True, alone=True) == ["90 frames were published and the worker received 89"]


def test_counts_begin_at_the_start() -> None:
    account = FrameAccount(4)
    account.observe_workers(workers(worker(1000, 900, queued=20, duplicate=80)))
    account.observe_landed(905)
    account.start()
    account.observe_edge(edge(50, 50))
    account.observe_workers(workers(worker(1050, 960, queued=5, duplicate=85)))
    account.observe_landed(965)
    totals = account.totals()
    assert (totals.worker_received, totals.passed, totals.queued, totals.landed) == (50, 60, -15, 60)
    assert totals.worker_dropped == {"duplicate": 5}
    assert reconcile(totals, simulated=False, alone=True) == []


def test_workers_count_only_together_with_all_lanes() -> None:
    account = FrameAccount(4)
    assert account.observe_workers(workers(worker(10, 10, lanes=3), worker(5, 5, lanes=1)))
    assert not account.observe_workers(workers(worker(10, 10, lanes=3)))
    assert account.totals().worker_received == 15
    assert not account.observe_workers(workers())


def test_an_edge_that_starts_again_is_carried_on() -> None:
    account = FrameAccount(4)
    account.start()
    account.observe_edge(edge(100, 90, bad_magic=10))
    assert not account.restarted
    account.observe_edge(edge(7, 5, too_short=2))
    totals = account.totals()
    assert (totals.edge_received, totals.published) == (107, 95)
    assert totals.edge_dropped == {"bad_magic": 10, "too_short": 2}
    assert account.restarted


def test_a_simulator_is_counted_by_its_lines_and_its_summary() -> None:
    account = FrameAccount(4)
    account.start()
    account.observe_sent({"sent": 10})
    account.observe_sent({"frames": 12})
    assert account.totals().sent == 12


def test_drops_of_edge_and_lanes_are_told_together() -> None:
    assert replace(GOOD, worker_dropped={"bad_magic": 1, "duplicate": 5}).dropped() == {
        "bad_magic": 5,
        "kernel_drop": 1,
        "duplicate": 5,
    }


def test_what_lay_in_the_spool_at_the_first_start_comes_from_there_and_later_finds_were_held_before() -> None:
    account = FrameAccount(4)
    account.observe_edge(edge(100, passed=120, held=30, spooled=50))
    totals = account.totals()
    assert (totals.edge_received, totals.recovered, totals.published, totals.held) == (100, 50, 120, 30)
    assert not [text for text in reconcile(totals, simulated=False, alone=False) if "the edge" in text]
    account.observe_edge(edge(10, passed=40, spooled=30))
    totals = account.totals()
    assert (totals.edge_received, totals.recovered, totals.published, totals.held) == (110, 50, 160, 0)
    assert not [text for text in reconcile(totals, simulated=False, alone=False) if "the edge" in text]
    missing = reconcile(replace(totals, published=159), simulated=False, alone=False)
    assert missing[0] == "the edge received 110 frames and found 50 in its spool and accounts for 159"
