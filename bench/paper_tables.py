"""The tables of docs/RESEARCH_PAPER.md: their figures and labels.

The unit of a column is in its head.
"""

from collections.abc import Iterator

from bench.cases.ablation import ALL as ABLATIONS
from bench.cases.peers.catalog import GATEWAYS, WORKERS
from bench.plots import PLOTS
from bench.run import NAMES
from bench.table_forms import Claim, Claims, Details, Listed, Machines, Matrix, Picture, Table

# Benchmarks that print one JSON object: `python -m bench keep` stores it in a result file.
COMMANDS = ("nab", "flags", "fleet", "fingerprint", "traffic", "loop", "llm", "peers")
BENCHES = frozenset((*NAMES, *COMMANDS))


def _listed(bench: str, *rows: tuple[str, str, str]) -> Iterator[tuple[str, str, str]]:
    return ((label, unit, f"{bench}.{name}") for label, unit, name in rows)


_FAULTS = (
    *("stuck", "spike_10sd", "spike_20sd", "level_10sd", "drift_10sd", "noise_x4", "zeros", "unit_c_to_f"),
    *("interval_third", "interval_x3", "silence_2h", "clock_jump", "counter_x4", "counter_stop"),
)
_HERD = (
    *(("as", "as"), ("devices", "devices"), ("recovery, s", "recovery_s"), ("p99 before, ms", "p99_before_ms")),
    *(("p99 in the storm, ms", "p99_storm_ms"), ("longest, ms", "max_ms"), ("most in the queue", "queue_depth_max")),
    *(("dropped", "dropped"), ("lost", "lost"), ("order kept", "order_kept")),
)
_IDLE = (
    *(("way", "way"), ("frames/s", "rate"), ("devices", "devices"), ("target", "target"), ("cores", "cores")),
    *(("broker", "broker"), ("edge", "edge"), ("worker", "worker"), ("p50, ms", "p50_ms"), ("p99, ms", "p99_ms")),
)
_DOES = (
    *(("by device", "keyed_by_device"), ("checks JSON", "json_check"), ("binary", "binary_safe")),
    *(("exactly once", "exactly_once"), ("broker away", "survives_outage"), ("why not measured", "not_measured")),
)
_GATEWAY = (
    *(("gateway", "peer"), ("20,000/s: µs a frame", "gateway_us_20k"), ("broker", "broker_us_20k")),
    *(("lost", "lost_20k"), ("60,000/s: µs a frame", "gateway_us_60k"), ("broker", "broker_us_60k")),
    *(("lost", "lost_60k"), ("none lost up to, frames/s", "highest_per_s"), ("frames", "frames")),
)
_STREAM_WORKER = (
    *(("worker", "peer"), ("µs a frame", "worker_us"), ("broker", "worker_broker_us")),
    *(("frames/s", "worker_frames_per_s"), ("resident, MB", "worker_rss_mb")),
)
_ABLATED = {
    "whole": "whole worker",
    "unjournalled": "no journal",
    "zscore": "a z-score as detector",
    "untyped": "no fingerprints",
    "unnumbered": "no duplicates found by number",
}
_OVERLOAD = ("goodput_share", "settled_s", "normal_s", "unaccounted", "moved")

TABLES: dict[str, Table] = {
    "machines": Machines(),
    **{f"plot-{name}": Picture(name) for name in PLOTS},
    "throughput": Matrix(
        ("configuration", "frames/s", "p50, ms", "p99, ms"),
        (
            (
                "whole path, none lost; latency at 50,000 frames/s",
                "path.frames_per_s",
                "latency.p50_ms",
                "latency.p99_ms",
            ),
            ("the same, latency at 5,000 frames/s", "", "latency.p50_ms_at_5k", "latency.p99_ms_at_5k"),
            (
                "two partitions, at 50,000 frames/s",
                "",
                "latency.p50_ms_at_2_partitions",
                "latency.p99_ms_at_2_partitions",
            ),
            ("short steps, flushing left to the kernel", "flush.frames_per_s_os", "flush.p50_ms_os", "flush.p99_ms_os"),
            (
                "short steps, `flush.ms`",
                "flush.frames_per_s_flush_ms",
                "flush.p50_ms_flush_ms",
                "flush.p99_ms_flush_ms",
            ),
            ("short steps, each record flushed", "flush.frames_per_s_each", "flush.p50_ms_each", "flush.p99_ms_each"),
            ("worker alone, on a backlog", "worker.frames_per_s", "", ""),
            ("edge alone, sender at its most", "edge.frames_per_s_at_max", "", ""),
            ("plain Faust agent, one event a frame", "baseline.plain_worker_frames_per_s", "", ""),
            ("plain asyncio edge, one send a frame", "baseline.plain_edge_frames_per_s", "", ""),
        ),
    ),
    "cost": Listed(
        (
            ("worker, steady state", "µs a frame", "worker.cpu_us_per_frame"),
            ("worker, whole life with its last checkpoint", "µs a frame", "worker.whole_cpu_us_per_frame"),
            ("broker for one worker", "µs a frame", "worker.kafka_cpu_us_per_frame"),
            ("edge at 200,000 frames/s", "µs a frame", "edge.cpu_us_per_frame"),
            ("edge, sender at its most", "µs a frame", "edge.cpu_us_per_frame_at_max"),
            ("payload check, small payload", "ns a frame", "kernels.payload_check_small_ns"),
            ("payload check, nested payload", "ns a frame", "kernels.payload_check_nested_ns"),
            ("record batch, 35 bytes: write", "ns a frame", "kernels.record_batch_35_append_ns"),
            ("record batch, 35 bytes: compress, checksum", "ns a frame", "kernels.record_batch_35_close_ns"),
            ("worker, 1,000,000 devices over 1,000", "ratio", "scale.ratio"),
            ("event loop held up, checkpoint of 100,000 devices", "ms", "checkpoint.longest_block_ms"),
        )
    ),
    "sources": Matrix(
        ("source", "edge, µs a frame", "everything, µs a frame", "edge, over `udp`"),
        tuple(
            (f"`{name}`", f"sources.{name}_us_per_frame", f"sources.{name}_machine_us_per_frame", to_udp)
            for name in ("udp", "io_uring", "udp_filter", "af_xdp", "ringbuf")
            for to_udp in ["" if name == "udp" else f"sources.{name}_to_udp"]
        ),
    ),
    "memory": Matrix(
        ("process and load", "resident, MB", "peak, MB"),
        (
            ("edge, idle", "memory.edge_rss_mb", ""),
            ("edge, after its highest rate", "edge.rss_after_load_mb", ""),
            ("worker, 1,000 devices, no load", "start.worker_rss_mb", ""),
            ("worker, 10,000 devices, on a backlog", "worker.rss_mb", ""),
            ("worker, 1,000,000 devices", "memory.worker_rss_mb", "memory.worker_peak_rss_mb"),
            ("its successor, after recovery", "memory.recovered_rss_mb", "memory.recovered_peak_rss_mb"),
            ("plain Faust agent, 10,000 devices", "baseline.plain_worker_rss_mb", ""),
            ("plain asyncio edge", "baseline.plain_edge_rss_mb", ""),
        ),
    ),
    "herd": Details("herd", "as", ("controlled",), _HERD),
    "herd-ablations": Details("herd", "as", ("trend", "unforecast", "fixed", "unqueued"), _HERD),
    "overload": Matrix(
        ("load over capacity", "goodput share", "settled, s", "normal, s", "unaccounted frames", "machine moved"),
        tuple((f"{factor} times", *(f"overload.{name}_{factor}x" for name in _OVERLOAD)) for factor in ("1.4", "2")),
    ),
    "peers": Matrix(
        ("part", "frames/s", "µs a frame", "resident, MB"),
        tuple(
            (label, *(f"baseline.{name}_{figure}" for figure in ("frames_per_s", "cpu_us_per_frame", "rss_mb")))
            for label, name in (
                ("worker of KLAIS", "worker"),
                ("plain Faust agent", "plain_worker"),
                ("edge of KLAIS", "edge"),
                ("plain asyncio edge", "plain_edge"),
            )
        ),
    ),
    "gateways": Details("peers", "peer", tuple(peer.title for peer in GATEWAYS), (*_GATEWAY, *_DOES)),
    "stream-workers": Details("peers", "peer", tuple(peer.title for peer in WORKERS), (*_STREAM_WORKER, *_DOES)),
    "ablations": Matrix(
        ("worker", "µs a frame", "over the whole", "frames/s", "broker, µs a frame", "resident, MB"),
        tuple(
            (
                _ABLATED[name],
                f"ablation.cpu_us_per_frame_{name}",
                f"ablation.of_whole_{name}",
                f"ablation.frames_per_s_{name}",
                f"ablation.kafka_cpu_us_per_frame_{name}",
                f"ablation.rss_mb_{name}",
            )
            for name in ABLATIONS
        ),
    ),
    "interpreted": Listed(
        (
            ("payload check, compiled", "ns a frame", "ablation.payload_check_ns"),
            ("payload check, interpreted", "ns a frame", "ablation.payload_check_interpreted_ns"),
            ("the second over the first", "ratio", "ablation.payload_check_interpreted_times"),
        )
    ),
    "idle": Details("idle", "way", ("klais", "plain"), _IDLE),
    "faults": Listed(
        (
            *_listed(
                "restart",
                ("edge killed at 20,000 frames/s: lost", "frames", "lost_kill9"),
                ("edge restarted: lost", "frames", "lost_restart"),
                ("edge upgraded beside itself: lost", "frames", "lost_upgrade"),
                ("edge killed: until the next one receives", "ms", "away_ms_kill9"),
                ("longest time in which nothing was kept", "ms", "deaf_ms"),
            ),
            *_listed(
                "recovery",
                ("worker with 1,000,000 devices killed: until all lanes live", "s", "seconds"),
                ("the same after a clean stop", "s", "seconds_after_clean_stop"),
                ("CPU time of that recovery", "s", "recovery_cpu_s"),
                ("devices that came back", "devices", "recovered_devices"),
            ),
        )
    ),
    "xdp": Listed(
        (
            *_listed(
                "xdp",
                ("empty program (in all others)", "ns a packet", "empty_ns"),
                ("wrong magic, dropped", "ns a packet", "drop_bad_magic_ns"),
                ("above the rate of its device, dropped", "ns a packet", "drop_device_rate_ns"),
                ("passed, both buckets", "ns a packet", "pass_ns"),
                ("passed, 1,048,576 devices at random", "ns a packet", "pass_ns_1048576_devices"),
                ("that over 1,024 devices", "ratio", "growth_to_a_million"),
                ("passed, all CPUs at one device", "ns a packet", "pass_ns_all_cpus_one_device"),
            ),
            *_listed(
                "flood",
                ("good frames lost in a flood, with the filter", "frames", "lost_with_filter"),
                ("good frames lost, without", "frames", "lost_without_filter"),
                ("flood received, with the filter", "frames/s", "arrived_per_s_with_filter"),
                ("cores of the edge, with the filter", "cores", "edge_cores_with_filter"),
                ("cores of the edge, without", "cores", "edge_cores_without_filter"),
            ),
            ("signed over plain frame, edge", "ratio", "auth.edge_signed_ratio"),
            ("signed over plain frame, filter", "ratio", "auth.xdp_signed_ratio"),
            ("worst hostile over ordinary step of a lane", "ratio", "hostile.worst_step_ratio"),
            ("good frames lost in floods of each kind", "frames", "hostile.lost_under_floods"),
        )
    ),
    "detection": Listed(
        (
            *_listed(
                "nab",
                ("NAB, standard profile", "of 100", "standard"),
                ("NAB, few false positives", "of 100", "low_fp"),
                ("NAB, few false negatives", "of 100", "low_fn"),
                ("NAB, one threshold over resampled copies too", "of 100", "pooled"),
                ("scorer", "ns a value", "ns_per_value"),
            ),
            ("false flags of normal kinds", "a device and day", "flags.flags_per_device_day"),
            *((f"recall, `{fault}`", "share", f"flags.recall_{fault}") for fault in _FAULTS),
            *_listed(
                "fleet",
                ("false flags of a normal fleet", "flags", "normal_false_flags"),
                ("slowed devices found, of 20", "devices", "slowed_found"),
                ("incidents when the whole fleet pauses", "incidents", "pause_incidents"),
                ("incidents when a third of it pauses", "incidents", "site_incidents"),
                ("incidents when all change their unit", "incidents", "unit_incidents"),
            ),
            *_listed(
                "fingerprint.held_out",
                ("device changes its type: recall", "share", "change.recall"),
                ("delay, median", "frames", "change.delay_frames_p50"),
                ("impersonation: recall", "share", "impersonation.recall"),
                ("delay, median", "frames", "impersonation.delay_frames_p50"),
                ("false flags in 1,000 device-days", "flags", "normal.false_per_1000_device_days"),
                ("fingerprints", "ns a frame", "cost.ns_per_frame"),
            ),
        )
    ),
    "classification": Listed(
        (
            *_listed(
                "traffic",
                ("five classes, later days: macro-F1", "", "macro_f1"),
                ("kinds that training never saw: macro-F1", "", "held_out_kinds_macro_f1"),
                ("Brier score of a burst over the trend's", "ratio", "brier_to_trend"),
                ("Brier score over the climatology's", "ratio", "brier_to_climatology"),
                ("false alarms", "a day", "false_alarms_per_day"),
                ("herds: alarm 5 s before arrivals peak", "share", "lead_5s_to_arrivals_peak_10s"),
                ("herds: alarm 5 s before the queue peaks", "share", "lead_5s_to_queue_peak_10s"),
                ("the best that any forecast can: before arrivals peak", "share", "best_1s_lead_5s_10s"),
                ("herds over 20 s: alarm 5 s before arrivals peak", "share", "lead_5s_to_arrivals_peak_20s"),
                ("the best that any forecast can", "share", "best_1s_lead_5s_20s"),
                ("answer by ONNX Runtime, p99", "µs", "onnx_p99_us"),
                ("answer by scikit-learn, p99", "µs", "sklearn_p99_us"),
            ),
            *_listed(
                "loop",
                ("loop in virtual time: figures worse than with the trend", "", "worse_than_trend"),
                ("worse than without a forecast", "", "worse_than_none"),
                ("better than with the trend", "", "better_than_trend"),
                ("better than without a forecast", "", "better_than_none"),
            ),
            *_listed(
                "llm",
                ("language model: windows right", "share", "accuracy"),
                ("language model: answers outside the grammar", "answers", "not_json"),
                ("language model: answer, median", "ms", "answer_p50_ms"),
                ("ungrounded sentences that a reader saw", "sentences", "ungrounded_sentences"),
            ),
        )
    ),
    "claims": Claims(
        (
            Claim("CPU time of the worker, a frame", "worker.cpu_us_per_frame"),
            Claim("CPU time of the edge, a frame", "edge.cpu_us_per_frame"),
            Claim("edge and broker over rsyslog and broker, 20,000/s", "peers.gateway_and_broker_of_rsyslog_20k"),
            Claim("edge and broker over rsyslog and broker, 60,000/s", "peers.gateway_and_broker_of_rsyslog_60k"),
            Claim("broker over rsyslog's broker, 60,000/s", "peers.broker_of_rsyslog_60k"),
            Claim("the same with the defaults of both, 60,000/s", "peers.broker_of_rsyslog_defaults_60k"),
            Claim(
                "edge and broker over rsyslog and broker, defaults", "peers.gateway_and_broker_of_rsyslog_defaults_60k"
            ),
            Claim("worker cheaper than QuixStreams by", "peers.worker_times_cheaper_than_quixstreams"),
            Claim("whole path on two cores, none lost", "path.frames_per_s"),
            Claim("latency at 50,000 frames/s, p50", "latency.p50_ms"),
            Claim("latency at 50,000 frames/s, p99", "latency.p99_ms"),
            Claim("worker with 1,000,000 devices, resident", "memory.worker_rss_mb"),
            Claim("idle edge, resident", "memory.edge_rss_mb"),
            Claim("broker, edge and worker without frames", "idle.cores_klais_0_50"),
            Claim("broker, edge and worker at 2,000 frames/s", "idle.cores_klais_2000_50"),
            Claim("their cores over those of the plain way, 100 frames/s", "idle.of_plain_100"),
            Claim("their cores over those of the plain way, 1,000 frames/s", "idle.of_plain_1000"),
            Claim("p99 over `KLAIS_LATENCY_MS`, 100 to 20,000 frames/s", "idle.p99_of_target"),
            Claim("take-over of 1,000,000 devices", "recovery.seconds"),
            Claim("herd of 1,000 devices, recovery", "herd.recovery_s_1000"),
            Claim("herd of 10,000 devices, recovery", "herd.recovery_s_10000"),
            Claim("herd of 100,000 devices, recovery", "herd.recovery_s_100000"),
            Claim("overload of 1.4 times: goodput over capacity", "overload.goodput_share_1.4x"),
            Claim("overload of 2 times: goodput over capacity", "overload.goodput_share_2x"),
            Claim("filter drops a wrong magic", "xdp.drop_bad_magic_ns"),
            Claim("filter passes a frame", "xdp.pass_ns"),
            Claim("filter, a million devices over a thousand", "xdp.growth_to_a_million"),
            Claim("good frames lost in a flood, with the filter", "flood.lost_with_filter"),
            Claim("five classes of traffic, macro-F1", "traffic.macro_f1", "", ">=", 0.94),
            Claim("a classification by ONNX Runtime, p99", "traffic.onnx_p99_us", "µs", "<=", 180.0),
            Claim(
                "alarm 5 s before the arrivals of a herd peak", "traffic.lead_5s_to_arrivals_peak_10s", "", ">=", 0.9
            ),
            Claim("false alarms of bursts", "traffic.false_alarms_per_day", "a day", "<=", 1.0),
            Claim("figures worse with the learned forecast than with none", "loop.worse_than_none", "", "<=", 0),
            Claim("change of type found within 50 frames", "fingerprint.recall", "", ">=", 0.95),
            Claim("language model: windows right", "llm.accuracy", "", ">=", 0.9),
            Claim("language model: answer, median", "llm.answer_p50_ms", "ms", "<=", 50.0),
        )
    ),
}
