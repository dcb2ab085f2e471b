"""The table's rows against those of the journal, without devices that cannot be compared at the marker's step."""

from types import SimpleNamespace

import numpy as np
import pytest

from klais.core.devices.layout import ROW, Rows
from klais.verify.audit import LaneAudit, _compare_rows


def rows(*devices: tuple[str, int, int]) -> Rows:
    """Rows of (device, step of its last change, received)."""
    out = np.zeros(len(devices), ROW)
    for row, (name, stamp, received) in zip(out, devices, strict=True):
        row["id"] = np.frombuffer(name.encode().ljust(16, b"\0"), "<u8")
        row["id_size"], row["stamp"], row["received"] = len(name), stamp, received
    return out


def problems(table: Rows, journal: Rows, forgotten: set[bytes]) -> list[str]:
    audit, state = LaneAudit(0), SimpleNamespace(rows=journal, used=len(journal))
    _compare_rows(audit, state, table, SimpleNamespace(step=10), forgotten)  # type: ignore[arg-type]
    return audit.problems


@pytest.mark.parametrize("forgotten", [set(), {b"gone".ljust(16, b"\0")}])
def test_newer_and_forgotten_devices_are_left_out(forgotten: set[bytes]) -> None:
    gone = [("gone", 3, 1)] if forgotten else []
    journal = rows(("b", 9, 2), *gone, ("a", 4, 1), ("newer", 8, 5))
    assert problems(rows(("a", 4, 1), ("newer", 11, 6), ("b", 9, 2)), journal, forgotten) == []
    (text,) = problems(rows(("a", 4, 7), ("newer", 11, 6), ("b", 9, 2)), journal, forgotten)
    assert text == "table differs from the journal at step 10 in received"
    (text,) = problems(rows(("a", 4, 1), ("newer", 11, 6)), journal, forgotten)
    assert text == "table has 1 devices at step 10, the journal 2"


def test_no_rows_at_all() -> None:
    assert problems(rows(), rows(), set()) == []
