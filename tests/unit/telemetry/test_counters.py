"""A counter that survives restarts of the process that counts."""

from klais.telemetry.counters import ResetSafeTotals


def test_counters_are_carried_over_the_processes_of_a_place() -> None:
    counter = ResetSafeTotals()
    counter.observe({"received": 5, "dropped": {"bad_magic": 1}}, life=10)
    counter.observe({"received": 9, "dropped": {"bad_magic": 2}}, life=10)
    assert counter.totals() == {"received": 9, "dropped": {"bad_magic": 2}}
    counter.observe({"received": 1, "dropped": {"kernel_drop": 4}}, life=11)
    assert counter.observe({"received": 3, "dropped": {}}, life=12) == counter.totals()
    assert counter.totals() == {"received": 13, "dropped": {"bad_magic": 2, "kernel_drop": 4}}
    assert counter.restarts == 2


def test_without_an_identity_a_step_down_is_a_restart() -> None:
    counter = ResetSafeTotals("received")
    seen = [counter.observe({"received": n})["received"] for n in (5, 9, 2, 2, 4)]
    assert seen == [5, 9, 11, 11, 13] and counter.restarts == 1
