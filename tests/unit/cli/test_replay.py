"""``klais replay``: what it says about a lane that writes while it is checked."""

from click.testing import CliRunner
from pytest import MonkeyPatch

from klais.cli.main import main
from klais.config.load import Settings
from klais.verify import audit


def said(monkeypatch: MonkeyPatch, problem: str, written: int, *not_compared: str) -> str:
    async def audit_lane(_settings: Settings, number: int, **_: object) -> audit.LaneAudit:
        found = audit.LaneAudit(number, written=written, not_compared=list(not_compared))
        if problem:
            found.problem(problem)
        return found

    monkeypatch.setattr("klais.kafka.probe.need_kafka", lambda _: None)
    monkeypatch.setattr(audit, "audit_lane", audit_lane)
    ran = CliRunner().invoke(main, ["replay", "--check", "--partition", "0"])
    assert ran.exit_code == (1 if problem else 0)
    return ran.output


def test_differences_of_a_lane_that_writes_may_be_none(monkeypatch: MonkeyPatch) -> None:
    note = "the lane wrote 12 records to its journal meanwhile, which may be all that differs"
    assert note in said(monkeypatch, "3 more records than in the journal", 12)
    assert note not in said(monkeypatch, "", 12)
    assert "meanwhile" not in said(monkeypatch, "3 more records than in the journal", 0)


def test_what_is_not_compared_is_listed(monkeypatch: MonkeyPatch) -> None:
    assert "NOT COMPARED: klais_dead_letter, klais_anomalies (" in said(
        monkeypatch, "", 0, "klais_dead_letter", "klais_anomalies"
    )
    assert "NOT COMPARED" not in said(monkeypatch, "", 0)
