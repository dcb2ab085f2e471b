"""The body of ``/control/``: the leader, the limits in force and their reasons, overrides, the newest decisions."""

import time
from typing import Any

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.control.shown import control_in_force
from klais.worker.controller import ControllerStatistics
from klais.worker.limits import LaneLimits
from klais.worker.web.times import iso


def control_body(
    settings: Settings, limits: LaneLimits, follower: ControlFollower, controller: ControllerStatistics, max_count: int
) -> dict[str, Any]:
    """All workers return the same body except for ``here``: all follow the same topic.

    Parameters
    ----------
    settings, limits, follower
        Of this worker.
    controller : ControllerStatistics
        Of this worker, whether it is the leader or not.
    max_count : int
        Number of decisions shown, newest first.
    """
    found = control_in_force(follower, settings, max_count)
    newest = follower.decisions[-1] if follower.decisions else {}
    return {
        "at": iso(time.time_ns()),
        **found,
        "controller": {"by": newest.get("by"), "term": newest.get("term"), "decided_at": _iso_ms(newest.get("at"))},
        "here": here(controller),
        "shares": {str(p): round(limits.share(p), 6) for p in range(settings.partitions)},
        "overrides": [shown(record) for record in found["overrides"]],
        "decisions": [record | {"at_iso": _iso_ms(record.get("at"))} for record in found["decisions"]],
    }


def here(controller: ControllerStatistics) -> dict[str, Any]:
    """State of this worker's controller."""
    return {
        "is_leader": controller.is_leader,
        "epoch": controller.epoch,
        "decisions": controller.decisions,
        "terms": controller.terms,
        "now": None if controller.newest is None else controller.newest.record(),
    }


def shown(record: dict[str, Any]) -> dict[str, Any]:
    """An override with readable times."""
    return record | {
        f"{name}_iso": _iso_ms(record.get(name))
        for name in ("at", "until_ms", "limits_until_ms")
        if record.get(name) is not None
    }


def _iso_ms(at_ms: Any) -> str | None:
    return iso(int(at_ms) * 1_000_000) if isinstance(at_ms, int | float) else None
