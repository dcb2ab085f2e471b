"""The dashboards: ``python -m deploy.grafana.dashboards`` writes them as JSON next to this file.

A test compares the committed files with this output, and evaluates every expression in a real Prometheus.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.devices import DEVICES
from deploy.grafana.panels import Board, Panel, of, quantile, rate

FOLDER = Path(__file__).parent / "dashboards"
RECEIVED, PASSED, DROPPED = "klais_packets_received_total", "klais_packets_passed_total", "klais_packets_dropped_total"
LANDED, KAFKA = "klais_landed_latency_seconds", "klais_kafka_latency_seconds"

# Metrics without a panel, each with the reason.
NOT_SHOWN: dict[str, str] = {}

PIPELINE = Board(
    "klais-pipeline",
    "KLAIS / Pipeline",
    "The path of the frames: received, accepted by Kafka, decided, on the clean topic; and what left it.",
    [
        [
            Panel("Received", "pps", [(rate(RECEIVED, stage="edge"), "")], "Frames/s at all edges.", kind="number"),
            Panel("Passed", "pps", [(rate(PASSED, stage="lane"), "")], "Frames/s that pass the dam.", kind="number"),
            Panel(
                "Lost", "pps", [(rate(DROPPED, intentional="false"), "")],
                "Frames/s dropped unintentionally.", kind="number",
            ),
            Panel("Lag", "s", [(f"max({of('klais_lag_seconds')})", "")], "Of the oldest partition.", kind="number"),
            Panel("Latency p99", "s", [(quantile(0.99, LANDED), "")], "Edge to clean topic.", kind="number"),
            Panel(
                "Lanes live", "percentunit",
                [(f"sum({of('klais_lanes')}) / max({of('klais_partitions')})", "")],
                "Of all partitions.", kind="number",
            ),
        ],
        [
            Panel(
                "Frames/s by stage", "pps",
                [
                    (rate(RECEIVED, stage="edge"), "edge received"),
                    (rate(PASSED, stage="edge"), "Kafka acknowledged"),
                    (rate(RECEIVED, stage="lane"), "lanes received"),
                    (rate(PASSED, stage="lane"), "passed the dam"),
                ],
                "The lines coincide while no frames wait and none are dropped.",
            ),
            Panel(
                "Lost, by reason", "pps",
                [(rate(DROPPED, "stage, reason", intentional="false"), "{{stage}} {{reason}}")],
                "Unintended drops.",
            ),
            Panel(
                "Dropped on purpose, by reason", "pps",
                [(rate(DROPPED, "stage, reason", intentional="true"), "{{stage}} {{reason}}")],
                "Drops by your limits or by the protocol.",
            ),
        ],
        [
            Panel(
                "Lag by partition", "s", [(f"max by (partition) ({of('klais_lag_seconds')})", "{{partition}}")],
                "Age of the oldest batch that a lane has not read.",
            ),
            Panel(
                "From the edge to the clean topic", "s",
                [
                    (quantile(0.5, LANDED), "p50"),
                    (quantile(0.99, LANDED), "p99"),
                    (f"max({of('klais_latency_target_seconds')})", "target"),
                ],
                "Including the time in the queue and in the spool. The target is KLAIS_LATENCY_MS.",
            ),
            Panel(
                "Landed later than the target", "percentunit",
                [(f"max by (instance) ({of('klais_latency_late_share')})", "{{instance}}")],
                "Share of the batches of the last 30 s.",
            ),
            Panel(
                "Kafka acknowledges, p99", "s", [(quantile(0.99, KAFKA, "stage"), "{{stage}}")],
                "From the send of a batch to its acknowledgement.",
            ),
        ],
        [
            Panel(
                "Records/s to Kafka", "short",
                [(rate("klais_kafka_messages_total", "stage, topic"), "{{stage}} {{topic}}")],
            ),
            Panel(
                "Records that Kafka refused", "short",
                [(rate("klais_kafka_errors_total", "stage, topic"), "{{stage}} {{topic}}")],
            ),
            Panel("Bytes/s", "Bps", [(rate("klais_bytes_received_total", "stage"), "{{stage}} received")]),
        ],
        [
            Panel(
                "Dead letters/s", "short",
                [
                    (rate("klais_dead_letters_total", "stage"), "{{stage}} written"),
                    (rate("klais_dead_letters_suppressed_total", "stage"), "{{stage}} only counted"),
                ],
            ),
            Panel(
                "Unaccounted for", "short",
                [
                    (f"sum by (stage) ({of('klais_conservation_missing_frames')})", "{{stage}} frames"),
                    (rate("klais_lost_records_total"), "records lost/s"),
                    (rate("klais_missing_batches_total"), "batches missing/s"),
                ],
                "Must be 0.",
            ),
            Panel(
                "Held", "short",
                [(f"sum by (stage) ({of('klais_queue_depth')})", "{{stage}}")],
                "Frames on their way to Kafka (edge) and in the dam's queue (lane).",
            ),
        ],
    ],
)  # fmt: skip

EDGE = Board(
    "klais-edge",
    "KLAIS / Edge & XDP",
    "Edges: received, held and spooled frames, and the kernel filter.",
    [
        [
            Panel("Received", "pps", [(rate(RECEIVED, "instance", stage="edge"), "{{instance}}")]),
            Panel("Kernel drops", "pps", [(rate(DROPPED, "instance", reason="kernel_drop"), "{{instance}}")]),
            Panel("Batches/s", "short", [(rate("klais_edge_batches_total", "instance"), "{{instance}}")]),
        ],
        [
            Panel(
                "Spool", "bytes",
                [
                    (of("klais_edge_spool_bytes"), "{{instance}}"),
                    (of("klais_edge_spool_max_bytes"), "{{instance}} limit"),
                ],
            ),
            Panel("Frames in the spool", "short", [(of("klais_edge_spool_frames"), "{{instance}}")]),
            Panel(
                "Spool, found and replayed", "pps",
                [
                    (rate("klais_edge_spool_replayed_total", "instance"), "{{instance}} replayed"),
                    (rate("klais_edge_spool_recovered_total", "instance"), "{{instance}} found at the start"),
                ],
            ),
        ],
        [
            Panel("Breaker open", "short", [(of("klais_edge_breaker_open"), "{{instance}}")], "1 = spooling."),
            Panel(
                "Breaker transitions", "short",
                [(rate("klais_edge_breaker_transitions_total", "instance, state"), "{{instance}} {{state}}")],
            ),
            Panel(
                "In flight to Kafka", "bytes",
                [
                    (of("klais_edge_inflight_bytes"), "{{instance}}"),
                    (of("klais_edge_inflight_max_bytes"), "{{instance}} limit"),
                ],
            ),
        ],
        [
            Panel(
                "From a batch's first frame until it is closed", "s",
                [
                    (quantile(0.5, "klais_processing_latency_seconds", stage="edge"), "p50"),
                    (quantile(0.99, "klais_processing_latency_seconds", stage="edge"), "p99"),
                ],
            ),
            Panel("Receive buffer", "bytes", [(of("klais_edge_receive_buffer_bytes"), "{{instance}}")]),
            Panel(
                "Silence on klais_stats", "s",
                [(f"max by (kind) ({of('klais_stats_age_seconds')})", "{{kind}}")],
                "Age of the newest record of the process that has been silent for longest.",
            ),
        ],
        [
            Panel(
                "Kernel filter, packets by verdict", "pps",
                [(rate("klais_xdp_packets_total", "instance, verdict"), "{{instance}} {{verdict}}")],
                "Every edge of a host reports the same.", always=False,
            ),
            Panel(
                "Kernel filter, bytes by verdict", "Bps",
                [(rate("klais_xdp_bytes_total", "instance, verdict"), "{{instance}} {{verdict}}")], always=False,
            ),
        ],
        [
            Panel(
                "Whose limits the filter applies", "short",
                [(of("klais_xdp_limits_in_force") + " == 1", "{{instance}} {{by}}")], always=False,
            ),
            Panel(
                "Age of the filter's set-points", "s",
                [(of("klais_xdp_setpoint_age_seconds"), "{{instance}}")], always=False,
            ),
            Panel(
                "Signed frames, by result", "pps",
                [(rate("klais_auth_frames_total", "result, generation"), "{{result}}, generation {{generation}}")],
                "With KLAIS_AUTH: good, forged and unsigned frames; retire a generation that is no longer used.",
                always=False,
            ),
            Panel(
                "Writes to the filter", "short",
                [
                    (rate("klais_xdp_writes_total", "instance"), "{{instance}} writes/s"),
                    (of("klais_xdp_maps"), "{{instance}} may write"),
                ],
            ),
            Panel(
                "Blocked sources", "short",
                [
                    (of("klais_edge_blocked_sources"), "{{instance}} prefixes"),
                    (rate("klais_packets_dropped_total", "instance", reason="blocked_source"), "{{instance}} frames/s"),
                ],
                "Prefixes of `klais sources block`, and the frames of these senders that edges dropped.",
            ),
        ],
    ],
)  # fmt: skip

WORKER = Board(
    "klais-worker",
    "KLAIS / Worker & lanes",
    "Workers: lanes, queues, checkpoints and resource use.",
    [
        [
            Panel(
                "Lanes", "short",
                [
                    (f"sum({of('klais_lanes')})", "live"),
                    (f"max({of('klais_partitions')})", "partitions"),
                ],
                "Fewer live lanes than partitions: frames wait.",
            ),
            Panel("Lane is live", "short", [(of("klais_lane_live"), "{{instance}} {{partition}}")]),
            Panel("Lane restarts", "short", [(f"increase({of('klais_lane_restarts_total')}[15m])", "{{instance}}")]),
        ],
        [
            Panel("Frames by verdict", "pps", [(rate("klais_lane_frames_total", "verdict"), "{{verdict}}")]),
            Panel(
                "Batches and steps", "short",
                [
                    (rate("klais_lane_batches_total", "instance"), "{{instance}} batches/s"),
                    (rate("klais_lane_steps_total", "instance"), "{{instance}} steps/s"),
                ],
            ),
            Panel("Lag in records", "short", [(of("klais_lag_records"), "partition {{partition}}")]),
        ],
        [
            Panel(
                "Queue", "short",
                [
                    (of("klais_queue_depth", stage="lane"), "{{instance}}"),
                    (of("klais_queue_limit_frames"), "{{instance}} limit"),
                ],
                "Frames that wait for the global rate.",
            ),
            Panel(
                "Memory of the queue", "bytes",
                [(of("klais_queue_bytes"), "{{instance}}"), (of("klais_queue_limit_bytes"), "{{instance}} limit")],
            ),
            Panel(
                "Longest block of the event loop", "s", [(of("klais_event_loop_longest_block_seconds"), "{{instance}}")]
            ),
        ],
        [
            Panel("Age of the oldest checkpoint", "s", [(of("klais_lane_checkpoint_age_seconds"), "{{instance}}")]),
            Panel(
                "Checkpoints", "short",
                [
                    (rate("klais_lane_checkpoints_total", "instance"), "{{instance}} checkpoints/s"),
                    (rate("klais_lane_checkpoint_seconds_total", "instance"), "{{instance}} share of time"),
                ],
            ),
            Panel(
                "Time to decide and to score a batch, p99", "s",
                [
                    (quantile(0.99, "klais_processing_latency_seconds", stage="lane"), "decide"),
                    (quantile(0.99, "klais_inference_latency_seconds"), "model"),
                ],
            ),
        ],
        [
            Panel("CPU", "percentunit", [(rate("process_cpu_seconds_total", "instance"), "{{instance}}")], "Cores."),
            Panel("Memory", "bytes", [(of("process_resident_memory_bytes"), "{{instance}}")]),
            Panel(
                "Versions", "short", [(f"sum by (stage, version) ({of('klais_build_info')})", "{{stage}} {{version}}")]
            ),
        ],
    ],
)  # fmt: skip

CONTROL = Board(
    "klais-control",
    "KLAIS / Control loop",
    "Measurements, decisions and cuts of the controller, and overrides by operators.",
    [
        [
            Panel(
                "Rate in force and arriving frames", "pps",
                [
                    (f"max({of('klais_rate_limit', stage='lane')})", "rate in force"),
                    (rate(RECEIVED, stage="edge"), "arrives"),
                    (rate(PASSED, stage="lane"), "passes"),
                ],
            ),
            Panel(
                "Tokens in the global bucket", "short",
                [(f"sum({of('klais_tokens_available', stage='lane')})", "tokens")],
            ),
        ],
        [
            Panel("Lag", "short", [(f"max({of('klais_control_lag_frames')})", "frames")], "As the controller sees it."),
            Panel("CPU of the busiest process", "percentunit", [(f"max({of('klais_control_cpu_share')})", "share")]),
            Panel(
                "PID", "short",
                [
                    (f"sum by (term) ({of('klais_pid_term')})", "{{term}}"),
                    (f"sum({of('klais_control_error')})", "error"),
                ],
                "Terms of the newest decision; an error above 0 = spare capacity.",
            ),
        ],
        [
            Panel(
                "Burst forecast", "percentunit",
                [
                    (f"max({of('klais_burst_probability', stage='lane')})", "probability"),
                    (f"max({of('klais_control_cut_share')})", "cut of the rate"),
                ],
            ),
            Panel(
                "Leader", "short",
                [
                    (f"sum({of('klais_control_is_leader')})", "leaders"),
                    (f"max({of('klais_control_enabled')})", "the rate is not fixed"),
                ],
                "The sum must be 1.",
            ),
            Panel(
                "Decisions", "short",
                [
                    (rate("klais_control_decisions_total"), "decisions/s"),
                    (rate("klais_control_terms_total"), "new terms/s"),
                ],
            ),
        ],
        [
            Panel("Overrides in force", "short", [(f"max({of('klais_control_overrides')})", "overrides")]),
            Panel("Shed by edges", "pps", [(rate(DROPPED, "instance", reason="global_rate"), "{{instance}}")]),
        ],
        [
            Panel(
                "Class of the traffic", "short", [(of("klais_traffic_class") + " == 1", "{{class}}")],
                "As the forecast sees it: normal, elevated, burst, thundering_herd or attack.", always=False,
            ),
            Panel(
                "Models skipped", "short", [(rate("klais_forecast_fallbacks_total", "instance"), "{{instance}}")],
                "The forecast continues with the next simpler model; /health has the reason.",
            ),
            Panel(
                "Limit of a device during an attack", "pps", [(of("klais_control_device_limit"), "{{instance}}")],
                "0 = none.",
            ),
        ],
    ],
)  # fmt: skip

BOARDS = (PIPELINE, EDGE, WORKER, CONTROL, DEVICES)


def text(board: Board) -> str:
    """The file of a dashboard."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for made in BOARDS:
        (FOLDER / f"{made.uid}.json").write_text(text(made))
