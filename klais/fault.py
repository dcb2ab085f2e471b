"""Fault points: named places where a test makes the process die (or sleep) on purpose; without effect when off.

``KLAIS_FAULT_POINT=NAME[:N]`` kills the process with SIGKILL at the N-th pass (default the first) of ``at("NAME")``.
"""

import os
import signal
from collections.abc import Callable

LANE_POINTS = (
    "lane_decided",  # a step is decided, its journal record not sent
    "journal_sent",  # the journal batch is handed to Kafka, not acknowledged
    "journal_acked",  # the journal record is acknowledged, nothing put out
    "output_sent",  # an output batch is handed to Kafka, not acknowledged
    "output_acked",  # an output batch is acknowledged
    "release_decided",  # frames left the queue, the release is not journalled
    "checkpoint_taken",  # the snapshot is copied, nothing written
    "checkpoint_rows",  # part of the rows is written
    "checkpoint_marker",  # all rows are written, the marker is not
    "checkpoint_done",  # the marker is written, the input not acknowledged
    "lane_fenced",  # the new epoch is in force, nothing recovered
    "lane_replayed",  # the journal is replayed, the lane not live
    "profiles_sent",  # anomaly profiles are about to be saved
)
EDGE_POINTS = (
    "spool_written",  # the edge has written a batch to its spool
    "replay_sent",  # the edge has handed a batch from its spool to Kafka
    "replay_acked",  # Kafka acknowledged a batch from the spool, the spool has not recorded it yet
)
REDRIVE_POINTS = (
    "redrive_named",  # the ledger has a batch, klais_raw has not
    "redrive_sent",  # klais_raw has it, the run has not ended
)
INCIDENT_POINTS = (
    "incident_written",  # the leader has written an incident to klais_control, nothing to klais_anomalies
    "incident_sent",  # it has handed the record for klais_anomalies to Kafka, not acknowledged
    "incident_announced",  # the record is on klais_anomalies, klais_control has no note of it yet
)
POINTS = LANE_POINTS + EDGE_POINTS + INCIDENT_POINTS + REDRIVE_POINTS


def _off(name: str) -> None:
    """Nothing."""


at: Callable[[str], None] = _off


def arm(spec: str | None) -> None:
    """Arm one fault point (``NAME`` or ``NAME:N``); None turns all off.

    Raises
    ------
    ValueError
        If there is no such point.
    """
    global at
    if spec is None:
        at = _off
        return
    name, _, count = spec.partition(":")
    if name not in POINTS:
        raise ValueError(f"no fault point {name!r}; valid points: {', '.join(POINTS)}")
    left = int(count or 1)

    def armed(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    at = armed
