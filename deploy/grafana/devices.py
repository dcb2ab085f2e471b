"""The dashboard of devices and anomalies."""

from deploy.grafana.panels import Board, Panel, of, rate

DROPPED = "klais_packets_dropped_total"

DEVICES = Board(
    "klais-devices",
    "KLAIS / Devices & anomalies",
    "Number of devices, their states and anomalies.",
    [
        [
            Panel(
                "Devices", "short",
                [(f"sum({of('klais_devices')})", "known"), (f"sum({of('klais_devices_limit')})", "limit")],
            ),
            Panel("By state", "short", [(f"sum by (state) ({of('klais_devices_by_state')})", "{{state}}")]),
            Panel("Forgotten/s", "short", [(rate("klais_devices_forgotten_total"), "devices")]),
        ],
        [
            Panel("Flagged now", "short", [(f"sum({of('klais_anomaly_devices', stage='lane')})", "devices")]),
            Panel(
                "Anomaly records/s", "short",
                [
                    (rate("klais_anomaly_flags_total"), "written"),
                    (rate("klais_anomaly_flags_suppressed_total"), "only counted"),
                ],
            ),
            Panel(
                "Sequence numbers", "short",
                [
                    (rate("klais_sequence_gaps_total"), "missing/s"),
                    (rate("klais_sequence_late_total"), "late/s"),
                    (rate("klais_sequence_resets_total"), "restarts/s"),
                ],
                "Missing numbers show losses of the network.",
            ),
        ],
        [
            Panel(
                "Dropped by rules for devices", "pps",
                [(rate(DROPPED, "reason", reason="~duplicate|blocked|device_rate|device_limit"), "{{reason}}")],
            ),
            Panel(
                "Malformed", "pps",
                [(rate(DROPPED, "reason", reason="~too_.*|bad_.*|not_.*"), "{{reason}}")],
            ),
        ],
        [
            Panel("Open incidents", "short", [(f"sum by (feature) ({of('klais_incidents_open')})", "{{feature}}")]),
            Panel(
                "Incidents opened/s", "short", [(rate("klais_incidents_opened_total", "feature"), "{{feature}}")],
                "field: a field of the payload. fleet: the rate of all devices.",
            ),
            Panel(
                "Flags without an incident", "short",
                [
                    (rate("klais_incident_flags_alone_total"), "low score, single device/s"),
                    (rate("klais_incident_flags_muted_total"), "muted/s"),
                    (rate("klais_incident_flags_skipped_total"), "skipped/s"),
                ],
            ),
        ],
        [
            Panel(
                "Values scored", "short",
                [
                    (rate("klais_anomaly_values_total"), "scored/s"),
                    (rate("klais_anomaly_values_at_once_total"), "at once/s"),
                    (rate("klais_anomaly_values_skipped_total"), "skipped/s"),
                    (rate("klais_anomaly_values_without_profile_total"), "without a profile/s"),
                ],
                "Skipped: scores take KLAIS_ANOMALY_CPU_SHARE. Without a profile: KLAIS_ANOMALY_BYTES is full.",
            ),
            Panel(
                "CPU of scores", "percentunit",
                [(rate("klais_anomaly_scoring_seconds_total", "instance"), "{{instance}}")], "Of one core.",
            ),
            Panel(
                "Scoring period", "s", [(of("klais_anomaly_period_seconds"), "{{instance}}")],
                "Of one device; it stretches under load.",
            ),
        ],
        [
            Panel(
                "Types of devices", "short",
                [(of("klais_fingerprint_types"), "{{instance}}")], "Of the model in use; 0 without a model.",
            ),
            Panel(
                "Fingerprints", "short",
                [
                    (rate("klais_fingerprint_samples_total"), "frames sampled/s"),
                    (rate("klais_fingerprint_compared_total"), "compared with all types/s"),
                    (rate("klais_fingerprint_flags_total"), "flags/s"),
                ],
            ),
            Panel(
                "Trainings of types", "short",
                [
                    (f"sum(increase({of('klais_fingerprint_trainings_total')}[1h]))", "made a model"),
                    (f"sum(increase({of('klais_fingerprint_trainings_failed_total')}[1h]))", "failed"),
                ],
                "In the last hour.",
            ),
        ],
    ],
)  # fmt: skip
