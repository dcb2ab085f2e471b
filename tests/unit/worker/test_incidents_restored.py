"""What a new leader makes of the records on ``klais_control``, damaged and left-over ones as well."""

from pathlib import Path

import orjson
import pytest

from klais.config.load import Settings
from klais.control.incidents import Mutes, ack_scope
from klais.control.setpoints import INCIDENT, INCIDENTS, ControlFollower
from klais.kafka.flag_reader import Batch
from klais.worker.incidents import Incidents, Writes
from tests.support.incidents import T0_MS, follower_with, incident

LATER_MS = T0_MS + 86_400_000


def decided(follower: ControlFollower, tmp_path: Path) -> Writes:
    """What the leader writes a day later, without new flags."""
    leader = Incidents(Settings(state_dir=tmp_path), follower)
    leader._restore()
    pending = leader._decide(Batch(), Mutes(), 1000.0, LATER_MS, {})
    return [] if pending is None else pending.writes


@pytest.mark.parametrize(
    "state", [{}, {"pending": [1, 2]}, {"noise": "loud"}, {"next": {"0": -5}}, {"totals": {"foreign": 1}}]
)
def test_open_incidents_close_whatever_the_other_state_is(state: dict, tmp_path: Path) -> None:
    follower = follower_with(incident(1), incident(2))
    follower.consume(INCIDENTS, orjson.dumps(state))
    written = dict(decided(follower, tmp_path))
    for one in (incident(1), incident(2)):
        record = written[INCIDENT + one.id]
        assert record is not None and record["closed_ms"] == LATER_MS


def test_acknowledgements_of_what_is_no_incident_are_removed(tmp_path: Path) -> None:
    follower = follower_with(incident(1))
    known, unknown = ack_scope(incident(1).id), ack_scope("i-0123456789")
    for scope in (known, unknown):
        follower.consume(scope, orjson.dumps({"ack": True, "author": "ops"}))
    written = dict(decided(follower, tmp_path))
    assert unknown in written and written[unknown] is None and known not in written
