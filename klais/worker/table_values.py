"""Values of the Faust tables ``devices`` and ``profiles``, made from a lane's state on request."""

from collections.abc import Callable

from klais.core.lane.state import LaneState

TableValue = Callable[[LaneState, int], bytes | None]


def row_value(state: LaneState, row: int) -> bytes | None:
    """The device's row, for the table ``devices``."""
    return bytes(state.rows[row].tobytes())


def profile_value(state: LaneState, row: int) -> bytes | None:
    """The device's anomaly profile, for the table ``profiles``; None if it has none."""
    return None if state.detector is None else state.detector.dump(row)


TABLES: dict[str, TableValue] = {"devices": row_value, "profiles": profile_value}
