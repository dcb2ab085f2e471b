"""When a worker is ready: with lanes that are live, and not before."""

from dataclasses import replace

from klais.worker.readiness import GroupState, Readiness, readiness, waiting_for

RAW = "klais_raw"


def test_a_worker_with_live_lanes_is_ready():
    group = GroupState(recovered=True, assigned=frozenset({0, 3}))
    assert waiting_for(group, RAW, {0: True, 3: True}) == []


def test_a_worker_without_lanes_is_not_ready_and_names_the_topic():
    """As when all topics were deleted: the group is stable, the table recovered, and no frame would pass through."""
    (wait,) = waiting_for(GroupState(recovered=True), RAW, {})
    assert wait.startswith("a partition of klais_raw")


def test_a_worker_beyond_the_number_of_partitions_is_a_standby_once_all_lanes_are_live_elsewhere():
    alone = GroupState(recovered=True, partitions=2, workers=3)
    assert readiness(alone, RAW, {}).waiting_for, "nobody says that the lanes live elsewhere"
    assert readiness(replace(alone, live_elsewhere=frozenset({0})), RAW, {}).waiting_for
    spare = replace(alone, live_elsewhere=frozenset({0, 1}))
    assert readiness(spare, RAW, {}) == Readiness((), "standby: no lanes assigned, 3 workers for 2 partitions")
    for not_idle in ({"stopping": True}, {"rebalancing": True}, {"recovered": False}, {"assigned": frozenset({1})}):
        assert readiness(replace(spare, **not_idle), RAW, {}).waiting_for
    assert readiness(replace(spare, partitions=0), RAW, {}).waiting_for, "the topic is gone"


def test_during_the_start_it_waits_for_the_table_and_the_rebalance_not_for_partitions():
    assert waiting_for(GroupState(rebalancing=True), RAW, {}) == ["the devices table", "the rebalance to end"]


def test_each_lane_that_is_missing_or_recovers_is_named():
    group = GroupState(recovered=True, assigned=frozenset({0, 1, 2}))
    assert waiting_for(group, RAW, {0: True, 2: False}) == ["lane 1 to start", "lane 2 to become live"]
    told = replace(group, restoring={0: "x", 2: "61 % of the journal replayed"})
    assert waiting_for(told, RAW, {0: True, 1: True, 2: False}) == [
        "lane 2 to become live (61 % of the journal replayed)"
    ]


def test_a_partition_that_the_broker_lost_is_named_while_its_lane_still_runs():
    group = GroupState(recovered=True, assigned=frozenset({0, 1}), gone=frozenset({1}))
    assert waiting_for(group, RAW, {0: True, 1: True}) == ["partition 1 of klais_raw: the broker does not know it"]


def test_a_worker_that_stops_is_not_ready_whatever_else_holds():
    group = GroupState(stopping=True, recovered=True, assigned=frozenset({0}))
    assert waiting_for(group, RAW, {0: True}) == ["nothing: the worker is stopping"]
