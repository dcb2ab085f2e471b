"""The limits in force and why, for pages and commands."""

from typing import Any

from klais.config.load import Settings
from klais.control.operator_requests import targets_of
from klais.control.setpoints import ControlFollower


def control_in_force(follower: ControlFollower, settings: Settings, max_count: int) -> dict[str, Any]:
    """Limits in force, the set-points of the controller, overrides, and the newest ``max_count`` decisions, newest
    first."""
    decisions, targets = list(follower.decisions), targets_of(settings, follower)
    return {
        "mode": follower.mode(),
        "rate": follower.rate(settings.dam_max_rate),
        "burst": follower.burst(settings.dam_burst_size),
        "setpoints": {
            "lag": targets.lag,
            "cpu": targets.cpu,
            "rate_min": settings.pid_rate_min,
            "rate_max": settings.pid_rate_max,
        },
        "overrides": follower.overrides(),
        "decisions": decisions[::-1][:max_count],
    }
