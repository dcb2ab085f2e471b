"""JSON of others: deep nesting is refused before anything walks it."""

import orjson
import pytest

from klais.cli.decode import Record, decode, lines
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.incidents.summary import read_flag
from klais.edge.number import _claim
from klais.http.body import Body, parse_body
from klais.http.errors import HttpError
from klais.kafka.stats import StatsFollower
from klais.redrive.ledger import Ledger
from klais.system import shallow_json
from klais.telemetry.view import ProcessView
from klais.ui.audit import _object

DEEP = [b"[" * depth + b"]" * depth for depth in (65, 254, 900, 1000, 1023)]


@pytest.mark.parametrize("deep", DEEP, ids=len)
def test_deep_records_are_refused_by_all_readers(deep: bytes) -> None:
    """One such record on klais_control ended the thread that follows it: set-points stayed as they were, for good."""
    settings = Settings()
    follower = ControlFollower(settings)
    for name in (b"rate", b"shares", b"until_ms", b"author", b"anything"):
        for scope in ("global", "override", "device/a", "incident/i-0123456789", "incidents"):
            with pytest.raises(ValueError):
                follower.consume(scope, b'{"%s":%s}' % (name, deep))
    assert follower.records() == {}
    with pytest.raises(ValueError):
        StatsFollower(settings).consume("w", b'{"v":1,"counters":{},"gauges":{"x":%s},"rates":{}}' % deep)
    with pytest.raises(ValueError):
        _claim("edge", b'{"first":%s}' % deep)
    assert _object(b'{"a":%s}' % deep) is None
    flag = b'{"kind":"flag","device_id":"a","feature":"t","cause":"x","score":1,"firmware":%s}'
    assert read_flag(flag % b'"2"', 0, 1) is not None and read_flag(flag % deep, 0, 1) is None
    ledger = Ledger()
    ledger.add(b"redrive/1", b'{"after":{"phase":"batch","dead_letters":%s}}' % deep)
    assert not ledger.done
    with pytest.raises(HttpError) as refused:
        parse_body(b'{"a":%s}' % deep, Body)
    assert refused.value.status == 400


def test_deep_payloads_are_shown_as_text() -> None:
    for deep in DEEP:
        row = decode("telemetry", Record(0, 1, 1, b"a", deep))
        assert all(line.isprintable() for line in lines("telemetry", row, 10))
        orjson.dumps(row)


def test_what_devices_and_processes_send_is_not_deep() -> None:
    payload = b"[" * 64 + b"]" * 64
    assert shallow_json.loads(payload) == orjson.loads(payload)
    ProcessView.of("w", shallow_json.loads(b'{"counters":{},"gauges":{},"rates":{}}'))
