"""Herds: arrivals after the model, order of each device, and what counts as recovered."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from klais.config.load import Settings
from klais.errors import ConfigError, KlaisError
from klais.sim import herd_run
from klais.sim.herd import BACK_OFF_MAX_S, Herd, arrivals, in_order, recovery, verdict_lines
from klais.sim.herd_run import Landed, _verdict, parse


@pytest.mark.parametrize(("model", "mean_s", "span_s"), [("beta", 10 * 3 / 7, 10.0), ("uniform", 30.0, 60.0)])
def test_arrivals_follow_the_model(model: str, mean_s: float, span_s: float) -> None:
    run = arrivals(Herd(20_000, model, buffered=1, before_s=3.0))  # type: ignore[arg-type]
    come = run.due_s[run.device < run.herd] - 3.0
    assert come.mean() == pytest.approx(mean_s, rel=0.02)
    assert come.min() >= 0 and come.max() <= span_s + 0.01
    assert run.end_s == pytest.approx(3.0 + come.max())


@pytest.mark.parametrize("back_off", [False, True])
def test_each_devices_frames_are_due_in_their_order_and_each_once(back_off: bool) -> None:
    run = arrivals(Herd(500, buffered=7, back_off=back_off))
    assert (np.diff(run.due_s) >= 0).all()
    assert in_order(run.device.astype(np.int64), run.sequence.astype(np.int64))
    herd = run.device < run.herd
    assert np.bincount(run.device[herd]).tolist() == [7] * 500


def test_back_off_spreads_the_storm() -> None:
    def peak(back_off: bool) -> int:
        run = arrivals(Herd(5000, back_off=back_off))
        herd = run.due_s[run.device < run.herd]
        return int(np.histogram(herd, np.arange(0, herd.max() + 1, 0.5))[0].max())

    assert peak(True) < 0.7 * peak(False)
    assert arrivals(Herd(5000, back_off=True)).end_s > arrivals(Herd(5000)).end_s
    assert BACK_OFF_MAX_S == 10.0


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"devices is 0.*buffered is 0.*after_s"):
        arrivals(Herd(0, buffered=0, after_s=0))


def test_recovery_is_the_first_good_second_after_the_last_arrival() -> None:
    at = np.arange(0, 40, 0.01)
    took = np.full(len(at), 0.02)
    took[(at >= 12) & (at < 23.5)] = 3.0  # storm from 10 to 20; the queue is empty at 23.5
    found = recovery(at, took, 10.0, 20.0)
    assert found["recovery_s"] == pytest.approx(3.5, abs=0.11)
    assert found["p99_before_ms"] == pytest.approx(20.0)
    took[at >= 12] = 3.0
    assert recovery(at, took, 10.0, 20.0)["recovery_s"] is None
    assert "not within the run" in "\n".join(verdict_lines(recovery(at, took, 10.0, 20.0)))


def test_order_is_judged_per_device() -> None:
    device, sequence = np.array([1, 2, 1, 2]), np.array([5, 9, 6, 8])
    assert not in_order(device, sequence)
    assert in_order(device, np.array([5, 7, 6, 8]))


def test_steady_devices_are_bounded_before_memory_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"steady_per_s is 1e\+06: .* frames in .* s, at most 20,000,000"):
        arrivals(Herd(10, steady_per_s=1e6, after_s=1e6))


def test_records_of_other_devices_are_not_of_the_herd() -> None:
    own, seven = (
        b'{"device_id":"h12345-000004","seq":9,"ts":1,"data":{}}',
        b'{"device_id":"sim-001000004","seq":9,"ts":1}',
    )
    odd = [None, b"", b"[1]", b"\xff", b'{"device_id":5}', '{"device_id":"h12345-²","seq":1,"ts":1}'.encode()]
    landed = Landed([(5, [own, seven, *odd])])  # type: ignore[list-item]
    device, sequence, at = parse(landed, "h12345-")
    assert device.tolist() == [4] + [-1] * 7 and sequence.tolist() == [9] + [-1] * 7 and set(at.tolist()) == {5}


@pytest.mark.parametrize("frames", [1, 20])
def test_a_verdict_of_a_run_that_was_stopped_before_the_storm(frames: int) -> None:
    herd = Herd(10, steady_per_s=10.0)
    sent_ns = np.arange(frames) * 10**8 + 10**18
    watch = SimpleNamespace(queue_depth=0, rates=(math.inf, 0.0))
    verdict = _verdict(herd, arrivals(herd), sent_ns, Landed(), {}, watch, "h12345-")  # type: ignore[arg-type]
    assert (verdict["offered"], verdict["storm_frames"], verdict["passed"]) == (frames, 0, 0)
    assert json.loads(json.dumps(verdict, allow_nan=False))["rate_min"] is None


def test_a_run_that_is_stopped_before_its_first_frame_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = SimpleNamespace(open=lambda **_: None, start=lambda: None, stop=dict)
    monkeypatch.setattr(herd_run, "Watch", lambda _: quiet)
    monkeypatch.setattr(herd_run, "Reader", lambda _: quiet)
    with pytest.raises(KlaisError, match="stopped before the first frame"):
        herd_run.run(Settings(), Herd(10), "127.0.0.1", 9, lambda: True)
