"""A wrong clock and a shared id are named; neither stops an edge."""

from typing import Any

import pytest

from klais.edge.host_checks import ClockCheck
from klais.kafka.same_id import FORGET_OTHER_S, SAME_ID_S, SameIdCheck


class Heard:
    """What ``klais_stats`` says."""

    def __init__(self) -> None:
        self.offset_s: float | None = None
        self.edges: dict[str, dict[str, Any]] = {}

    def clock_offset_s(self, name: str) -> float | None:
        assert name == "edge-1"
        return self.offset_s

    def newest(self, kind: str) -> dict[str, dict[str, Any]]:
        assert kind == "edge"
        return self.edges


def test_a_refused_time_names_the_clock_until_kafka_accepts_again() -> None:
    heard = Heard()
    check = ClockCheck(heard, "edge-1", lambda: 1_000_000.0)  # type: ignore[arg-type]
    assert check.problem() == "" and check.record_ms() == 0
    check.on_refused()
    assert "clock of this host is far ahead of Kafka's" in check.problem()
    heard.offset_s = 7200.0
    assert "clock of this host is 7,200 s ahead of Kafka's" in check.problem()
    check.on_acknowledged()
    assert check.problem() == ""


def test_records_get_kafkas_time_where_it_is_known_and_differs() -> None:
    heard = Heard()
    check = ClockCheck(heard, "edge-1", lambda: 1_000_000.0)  # type: ignore[arg-type]
    for offset_s, expected_ms in ((7200.0, 992_800_000), (-90_000.0, 1_090_000_000), (0.5, 0), (None, 0)):
        heard.offset_s = offset_s
        assert check.record_ms() == expected_ms
    heard.offset_s = 2e9  # before the epoch
    assert check.record_ms() == 1


def test_two_edges_of_one_id_are_named_one_that_is_replaced_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    heard = Heard()
    check = SameIdCheck(heard, "edge-1", "aaaa")  # type: ignore[arg-type]
    ours, other = {"instance": "aaaa", "host": "here"}, {"instance": "bbbb", "host": "there:/sys/fs/bpf/klais"}

    def pass_s(seconds: float, *records: dict[str, Any]) -> str:
        for _ in range(round(seconds)):
            for record in records:
                heard.edges = {"edge-1": record}
                self_s[0] += 1 / len(records)
                check.on_tick(self_s[0])
        return check.problem()

    self_s = [100.0]
    assert pass_s(30, ours) == ""
    assert pass_s(SAME_ID_S / 2, ours, other) == "", "the one before may still be heard"
    assert pass_s(30, ours) == ""
    problem = pass_s(2 * SAME_ID_S, ours, other)
    assert "KLAIS_EDGE_ID" in problem and "edge on there also" in problem
    assert [record.message for record in caplog.records] == ["edge_id_shared"]
    assert pass_s(2 * FORGET_OTHER_S, ours) == ""
    assert [record.message for record in caplog.records] == ["edge_id_shared", "edge_id_shared_resolved"]
