"""What a tap can be restricted to, for servers and for ``klais tap``. Imports nothing large."""

from typing import Literal, get_args

from klais.core.wire.constants import VERDICTS, Reason

MAX_SAMPLE = 200  # frames per second of one process

LaneVerdict = Literal["passed", "queued", "released", "dropped", "malformed", "flagged"]
EdgeVerdict = Literal["passed", "dropped", "malformed"]
LANE_VERDICTS: tuple[str, ...] = get_args(LaneVerdict)
EDGE_VERDICTS: tuple[str, ...] = get_args(EdgeVerdict)

WHOLE_RECORDS = (Reason.CORRUPT_BATCH.label, Reason.POISON.label)  # reasons to set a whole raw record aside
LANE_REASONS = (*(reason.label for reason in Reason if Reason.DUPLICATE <= reason < VERDICTS), *WHOLE_RECORDS)
EDGE_REASONS = tuple(
    reason.label
    for reason in (
        *(Reason.TOO_SHORT, Reason.BAD_MAGIC, Reason.BAD_DEVICE_ID, Reason.TOO_LONG),
        *(Reason.UNSIGNED, Reason.BAD_MAC, Reason.BAD_EPOCH, Reason.GLOBAL_RATE, Reason.BLOCKED_SOURCE),
    )
)


def contradiction(verdict: str, reason: str, device_id: str, prefix: str) -> str:
    """Why no frame can match these selections together ("" = any); empty if some can.

    Examples
    --------
    >>> contradiction("passed", "duplicate", "", "")
    'a frame with verdict passed has no reason: give reason with another verdict, or without one'
    >>> contradiction("", "", "dev-1", "meter-")
    'device dev-1 does not begin with meter-: give one of the two'
    """
    if reason and verdict in ("passed", "queued", "released"):
        return f"a frame with verdict {verdict} has no reason: give reason with another verdict, or without one"
    if device_id and not device_id.startswith(prefix):
        return f"device {device_id} does not begin with {prefix}: give one of the two"
    return ""
