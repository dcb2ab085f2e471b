"""Bodies of changes: each field with what it may not be; the error names field, value and range."""

import json
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.http.body import Body, parse_body
from klais.http.errors import HttpError
from klais.ui.changes import Block, Blocks, Changes, DeviceLimits, Mute, Override, Reason, Requester
from klais.ui.routes import Login
from klais.worker.web.devices import read_devices_query

WHY = {"reason": "floods", "author": "Ada"}
TARGET = WHY | {"what": "device", "name": "dev-1"}
YEAR = {"above": 0, "maximum": 31_622_400.0}
RATE = {"above": 0, "maximum": 1e9}
BURST = {"minimum": 1, "maximum": 1e9}
LINE = {"min_length": 1, "max_length": 200}


def refused(model: type[Body], body: object) -> HttpError:
    with pytest.raises(HttpError) as found:
        parse_body(json.dumps(body).encode(), model)
    return found.value


@pytest.mark.parametrize(
    ("model", "body", "field", "value", "allowed"),
    [
        (Block, WHY | {"for_s": -1}, "for_s", "-1", YEAR),
        (Block, WHY | {"for_s": 1e9}, "for_s", "1000000000.0", YEAR),
        (Block, WHY | {"for_s": "1h"}, "for_s", '"1h"', YEAR),
        (Block, WHY | {"for_s": True}, "for_s", "true", YEAR),
        (Block, WHY | {"reason": ""}, "reason", '""', LINE),
        (Block, WHY | {"reason": " "}, "reason", '" "', LINE),
        (Block, WHY | {"reason": "a\x1b[31m"}, "reason", '"a\\u001b[31m"', LINE),
        (Block, WHY | {"reason": "two\nlines"}, "reason", '"two\\nlines"', LINE),
        (Block, WHY | {"reason": "a" * 201}, "reason", '"' + 59 * "a", LINE),
        (Block, WHY | {"author": 5}, "author", "5", {"max_length": 64}),
        (Blocks, WHY | {"device_ids": []}, "device_ids", "[]", {"min_items": 1, "max_items": 1000}),
        (Blocks, WHY | {"device_ids": ["a", "b\0"]}, "device_ids.1", '"b\\u0000"', {}),
        (DeviceLimits, WHY | {"rate": 0}, "rate", "0", RATE),
        (DeviceLimits, WHY | {"rate": 10**25}, "rate", "1e+25", RATE),
        (DeviceLimits, WHY | {"burst": 1e10}, "burst", "10000000000.0", BURST),
        (Override, WHY | {"mode": "off"}, "mode", '"off"', {"choices": ["manual", "auto"]}),
        (Mute, TARGET | {"what": "all"}, "what", '"all"', {"choices": ["device", "prefix", "feature"]}),
        (Mute, TARGET | {"name": "a" * 17}, "name", '"' + 17 * "a" + '"', {"min_length": 1, "max_length": 120}),
        (Mute, TARGET | {"name": "a\0"}, "name", '"a\\u0000"', {"min_length": 1, "max_length": 120}),
    ],
)
def test_an_error_names_field_value_and_range(
    model: type[Body], body: object, field: str, value: str, allowed: dict[str, Any]
) -> None:
    error = refused(model, body)
    (problem,) = error.details["problems"]
    assert error.status == 422 and str(error) == problem["error"]
    assert problem["field"] == field and str(error).startswith(f"{field}: ") and str(error).endswith(f", not {value}")
    assert {name: part for name, part in problem.items() if name not in ("field", "code", "error", "value")} == allowed


def test_no_error_repeats_a_token() -> None:
    error = refused(Login, {"token": "secret" * 700, "name": "a\nb"})
    assert [problem["field"] for problem in error.details["problems"]] == ["token", "name"]
    assert "secret" not in f"{error} {error.details}"


def test_a_feature_may_be_longer_than_an_id_and_a_reason_of_any_language() -> None:
    parse_body(orjson.dumps(TARGET | {"what": "feature", "name": "a" * 40}), Mute)
    assert parse_body(orjson.dumps({"reason": "نمی‌دانم 👩‍🔧"}), Reason).reason


def test_a_part_of_an_id_has_no_nul_and_a_number_its_range() -> None:
    for query, text in (({"q": "\0"}, "no NUL"), ({"size": "501"}, "size: must be a whole number from 1 to 500")):
        with pytest.raises(HttpError, match=text) as found:
            read_devices_query(query, False)
        assert found.value.status == 400


class Failing:
    """Kafka takes two changes."""

    def __init__(self) -> None:
        self.left = 2

    def change(self, scope: str, record: Any, before: Any, address: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KafkaException("no broker")


async def test_blocks_that_fail_half_way_say_who_is_blocked() -> None:
    writer = Failing()
    changes = Changes(ControlFollower(Settings()), lambda: writer, 1000.0)
    asked = Blocks(**WHY, device_ids=["a", "b", "c", "d"])
    with pytest.raises(HttpError, match="2 of 4 devices are blocked") as found:
        await changes.block_all(asked, Requester())
    assert found.value.status == 503 and found.value.details["blocked"] == ["a", "b"]
