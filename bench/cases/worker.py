"""The Faust worker alone: a backlog on ``klais_raw``; CPU time of the process for each frame landed in
``iot_telemetry``.
"""

from typing import Any

from bench.harness import DEVICES, Bench, BenchFailed, Ends, children_cpu_s, count_records, get_json, wait_for, watch
from bench.harness.feed import preload
from bench.harness.report import Result, rates, steady
from klais.config.load import Settings
from klais.kafka.topics import Topics

FRAMES = 2_500_000
REPEATS = 3
CHECKPOINT_S = 2.0  # more often than by default, so that each short run includes checkpoints


def measure(
    bench: Bench,
    frames: int,
    devices: int,
    begin: float = 0.15,
    checkpoint_s: float = CHECKPOINT_S,
    app: str = "agents.app",
    **settings_of_it: Any,
) -> dict[str, Any]:
    """Run one worker on a backlog of ``frames``, from its start until all have landed, and check that none is missing.

    Parameters
    ----------
    begin : float
        Share of the frames after which the steady state begins (the first batches build rows and fill caches).
    checkpoint_s : float
        Between checkpoints of a lane.
    app, settings_of_it
        Another application and settings of the worker.

    Returns
    -------
    dict
        Figures of the steady state, and ``whole_cpu_us_per_frame``: from the first frames landed to the end of the
        process, the last checkpoint included, over all frames.
    """
    with bench.topics(checkpoint_interval_s=checkpoint_s, **settings_of_it) as settings:
        batches = preload(settings, frames, devices)
        ends, rows = (Ends(settings, t) for t in (Topics.of(settings).telemetry, Topics.of(settings).devices_changelog))
        base, kafka_s, ended_s = ends.total(), bench.kafka_cpu_s(), children_cpu_s()
        with bench.worker(settings, ready=False, app=app) as child:
            written: dict[int, int] = {}  # frames done -> rows in the changelog then

            def done() -> int:
                frames_done = ends.total() - base
                written[frames_done] = rows.total()
                return frames_done

            samples = watch(child, done, frames, 90)
            rss_mb = child.rss_mb()
            first, last = steady(samples, frames, begin)
            kafka_us = (bench.kafka_cpu_s() - kafka_s) / frames * 1e6
            check_nothing_lost(settings, frames)
        came = next(
            sample for sample in samples if sample.done > settings.partitions
        )  # more records than transaction markers
        whole_s = children_cpu_s() - ended_s - came.cpu_s
        rows_written = rows.total()
    found = rates(first, last)
    return found | {
        "whole_cpu_us_per_frame": whole_s / (frames - came.done) * 1e6,
        "rows_checkpointed": rows_written,
        "rows_per_frame": (written[last.done] - written[first.done]) / (last.done - first.done),
        "kafka_cpu_us_per_frame": kafka_us,
        "rss_mb": rss_mb,
        "frames_per_batch": frames / batches,
        "measured_frames": last.done - first.done,
        "measured_s": last.at_s - first.at_s,
    }


def check_nothing_lost(settings: Settings, frames: int) -> None:
    """Check that each of ``frames`` frames is one record, and none was dropped, queued or malformed.

    Raises
    ------
    BenchFailed
        If a frame is missing: the figures would be invalid.
    """
    dam = get_json(f"http://127.0.0.1:{settings.web_port}/dam/")
    if dam is None:
        raise BenchFailed("the worker does not answer on /dam/")
    counted = dam["total"]["conservation"]
    if counted["passed"] != frames or counted["dropped"]:
        raise BenchFailed(f"{frames} frames went in, the dam says {counted} {dam['total']['dropped']}")
    topic = Topics.of(settings).telemetry
    wait_for(lambda: count_records(settings, topic) >= frames, 15, f"{frames} records in the log of {topic}", 0.5)
    if (landed := count_records(settings, topic)) != frames:
        raise BenchFailed(f"{frames} frames went in, {landed} records are in the log")


def run(bench: Bench, frames: int = FRAMES, repeats: int = REPEATS) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("worker")
    runs = []
    for number in range(repeats):
        bench.say(f"worker: {frames:,} frames of {DEVICES:,} devices, run {number + 1} of {repeats}")
        runs.append(measure(bench, frames, DEVICES))
        result.rows.append({name: round(value, 3) for name, value in runs[-1].items()})
    kept = ("cpu_us_per_frame", "frames_per_s", "whole_cpu_us_per_frame", "kafka_cpu_us_per_frame", "rss_mb")
    for figure in (*kept, "frames_per_batch"):
        result.repeat(figure, [one[figure] for one in runs])
    result.notes.append("each frame was found as one record, none dropped; new worker, new topics for each run")
    result.notes.append(f"a checkpoint every {CHECKPOINT_S:g} s")
    return result
