"""Kinds of simulated frames. Below 7: well-formed; 7 and above: malformed, and the number is the expected
``Reason``."""

from klais.core.wire.constants import FIRST_MALFORMED, Reason

GOOD = 0
REBOOT = 1  # the device restarts: its sequence returns to 0 with this frame
LATE = 2  # overtaken by the device's next frame, which is sent right before it
SPIKE = 3  # its temperature is an outlier
DUPLICATE = 4  # the same bytes as one of the frames shortly before
MALFORMED = FIRST_MALFORMED
FORGED = int(Reason.BAD_MAC)  # signed, with an invalid tag
MAX_KIND = FORGED

_NAMES = {GOOD: "good", REBOOT: "reboot", LATE: "late", SPIKE: "spike", DUPLICATE: "duplicate"}


def kind_label(kind: int) -> str:
    """Name of a kind for manifests and messages.

    Examples
    --------
    >>> kind_label(4), kind_label(13)
    ('duplicate', 'malformed:bad_json')
    """
    return _NAMES[kind] if kind in _NAMES else f"malformed:{Reason(kind).label}"
