"""What the REST API writes when it sets a rate: an override that keeps what else was set, its end too."""

import time
from typing import Any

import orjson

from klais.config.load import Settings
from klais.control.setpoints import OVERRIDE, ControlFollower
from klais.edge.api.rate import RateSetter


class Producer:
    """Keeps what would go to klais_control."""

    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def change(self, scope: str, record: dict[str, Any], before: Any, address: str) -> None:
        self.written.append((scope, record))


def state_with(override: dict[str, Any] | None) -> tuple[RateSetter, Producer, ControlFollower]:
    settings, producer = Settings(), Producer()
    control = ControlFollower(settings)
    if override is not None:
        control.consume(OVERRIDE, orjson.dumps(override))
    return RateSetter(settings, control, producer), producer, control  # type: ignore[arg-type]


def test_an_override_keeps_its_end_and_what_else_was_set() -> None:
    until_ms = int(time.time() * 1000) + 600_000
    before = {"mode": "manual", "rate": 5000, "burst": 70, "gains": {"kp": 0.5}, "until_ms": until_ms, "author": "ann"}
    state, producer, control = state_with(before)
    assert state.set_rate(20_000, "192.0.2.7") == 5000
    ((scope, record),) = producer.written
    assert scope == OVERRIDE and record["until_ms"] == until_ms
    assert (record["rate"], record["burst"], record["gains"]) == (20_000, 70, {"kp": 0.5})
    assert record["author"] == "rest 192.0.2.7" and record["at"] > 1_600_000_000_000
    assert control.rate(0) == 20_000, "the next request sees it at once"


def test_an_override_that_has_ended_lends_nothing() -> None:
    state, producer, _ = state_with({"mode": "manual", "rate": 5000, "burst": 70, "until_ms": 1})
    assert state.set_rate(20_000, "::1") == Settings().dam_max_rate
    ((_, record),) = producer.written
    assert "until_ms" not in record and "burst" not in record


def test_no_override_is_the_simple_case() -> None:
    state, producer, _ = state_with(None)
    state.set_rate(1500, "127.0.0.1")
    ((_, record),) = producer.written
    assert record.pop("at") > 0
    who = {"author": "rest 127.0.0.1", "reason": "POST /config"}
    assert record == {"scope": "override", "mode": "manual", "rate": 1500} | who
