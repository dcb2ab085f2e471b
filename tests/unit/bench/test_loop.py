"""The closed loop in virtual time: it counts every frame, repeats exactly, and shows what a forecast is worth."""

from bench.cases.loop.loads import CAPACITY, busy, flood, overload
from bench.cases.loop.plant import TICK_S, Loop
from bench.cases.loop.run import run
from klais.config.load import Settings
from klais.control.forecast import NoPredictor, TrendPredictor

SETTINGS = Settings()


def test_every_good_frame_is_landed_dropped_or_waits_and_a_run_repeats() -> None:
    load = overload(2.0)
    loops = [Loop(load, TrendPredictor(), SETTINGS) for _ in range(2)]
    figures = [loop.run().figures() for loop in loops]
    assert figures[0] == figures[1]
    assert figures[0]["frames"] == sum(round(frames) for frames in load.good[load.from_s :])
    assert figures[0]["waiting_at_end"] == loops[0].plant.raw.frames + loops[0].plant.queue.frames
    minute = 2.0 * CAPACITY * 60
    assert 0.4 * minute < figures[0]["dropped"] < 0.5 * minute, "what exceeds the capacity and the queue"


def test_a_surge_within_the_capacity_waits_for_nothing() -> None:
    figures = Loop(busy("surge", 0.4, 0.55), NoPredictor(), SETTINGS).run().figures()
    assert figures["dropped"] == 0 and figures["p99_ms"] == 1000 * TICK_S


def test_in_a_flood_the_learned_forecast_keeps_more_good_frames_than_none_and_the_trend() -> None:
    result = run(SETTINGS, [flood(1.0)])
    of = {row["forecast"]: row for row in result.rows}
    assert of["none"]["dropped"] > 0, "a flood that no forecast stops reaches the good frames"
    assert of["learned"]["dropped"] < 0.1 * of["none"]["dropped"]
    assert of["learned"]["p99_ms"] < 0.5 * min(of["trend"]["p99_ms"], of["none"]["p99_ms"])
    assert result.figures["worse_than_none"] == result.figures["worse_than_trend"] == 0
