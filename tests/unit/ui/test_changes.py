"""Changes by a worker that has not read ``klais_control`` yet."""

from typing import Any

import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.http.errors import HttpError
from klais.ui.changes import Ack, Changes, DeviceLimits, Requester


class Written:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def change(self, scope: str, record: Any, before: Any, address: str = "") -> None:
        self.records.append(dict(record))


async def test_a_worker_that_has_not_read_the_records_changes_none() -> None:
    """It would start from nothing, and the other fields of the record would be lost."""
    control, written = ControlFollower(Settings()), Written()
    changes = Changes(control, lambda: written, 1000.0, lambda: control.wait_caught_up(0.0))
    limits, who = DeviceLimits(reason="floods", rate=5.0), Requester()
    for refused in (changes.limit("dev-1", limits, who), changes.ack("i-0123456789", Ack(reason="known"), who)):
        with pytest.raises(HttpError) as caught:
            await refused
        assert (caught.value.status, caught.value.code) == (503, "starting")
    assert written.records == []
    control._caught_up.set()
    await changes.limit("dev-1", limits, who)
    assert len(written.records) == 1
