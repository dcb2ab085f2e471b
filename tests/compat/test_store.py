"""The devices table as Faust sees it: a view of the lanes' rows, never a copy."""

import time
from types import SimpleNamespace

import faust
import pytest

from agents.faust_ext import STORE_URL, register
from agents.faust_ext.store import NOTHING_TO_READ, Store
from klais.core.devices.layout import ROW, read_row
from klais.worker.table_values import row_value
from tests.support.lane import frames
from tests.support.views import PARTITIONS, fake_lane, feed


@pytest.fixture
def table():
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    register()
    app = faust.App("store-test", broker="kafka://nowhere", store=STORE_URL, autodiscover=False)
    options = {"lanes": SimpleNamespace(by_partition=lanes), "value": row_value}
    table = app.Table("devices", key_type=bytes, value_type=bytes, partitions=PARTITIONS, options=options)
    assert isinstance(table.data, Store)

    def fed(*some):
        feed(lanes, frames(*some), time.time_ns(), sum(lane.session.state.step for lane in lanes.values()))

    table.fed = fed
    return table


def test_a_value_is_the_row_as_it_is_now(table):
    assert len(table.data) == 0 and b"dev-3" not in table.data
    table.fed(*((f"dev-{i}", 1) for i in range(20)))
    assert read_row(table.data[b"dev-3"])["received"] == 1
    table.fed(("dev-3", 2))
    assert read_row(table.data[b"dev-3"])["received"] == 2
    with pytest.raises(KeyError):
        table.data[b"nobody"]


def test_it_lists_the_devices_of_all_lanes(table):
    table.fed(*((f"dev-{i}", 1) for i in range(20)))
    names = {b"dev-%d" % i for i in range(20)}
    assert len(table.data) == 20 and set(table.data.keys()) == names
    assert {key: len(value) for key, value in table.data.items()} == dict.fromkeys(names, ROW.itemsize)


def test_nothing_is_set_through_faust(table):
    with pytest.raises(TypeError, match="the lanes write"):
        table.data[b"dev-1"] = b"x"
    with pytest.raises(TypeError, match="the lanes write"):
        del table.data[b"dev-1"]
    with pytest.raises(TypeError, match="the lanes write"):
        table.data.clear()
    assert table.data.persisted_offset(None) == NOTHING_TO_READ
