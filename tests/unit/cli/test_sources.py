"""``klais sources``: what the list shows, and which prefixes it refuses."""

import json
from typing import Any

import pytest

from klais.cli import sources
from klais.cli.top.tabs import pipeline
from tests.unit.cli.test_devices import Run, recorded, run

__all__ = ["recorded", "run"]  # fixtures


def test_blocked_sources_are_listed_with_the_drops_of_edges_and_filters() -> None:
    def record(prefix: str, **more: Any) -> dict[str, Any]:
        return {"scope": f"source/{prefix}", "block": True, "author": "ada", "reason": "flood", "at": 0} | more

    one, two = "192.0.2.0/24", "2001:db8::/32"
    gauges = {"source_drops": {one: 5}, "xdp": {"source_drops": {one: 7}}}
    edges = [{"id": name, "host": "box", "gauges": gauges} for name in ("edge-0", "edge-1")]
    event = {"at_ms": 10_000, "edges": [*edges, {"id": "edge-2", "gauges": {}}]}
    others = [
        record("10.0.0.0/8", until_ms=9_000),
        record("11.0.0.0/8", unblock=True),
        {"scope": "device/d", "block": True},
    ]
    records = [record(two, until_ms=11_000), record(one), *others]
    began = "1970-01-01T00:00:00.000Z"
    assert [tuple(row.values()) for row in sources.rows_of(records, event)] == [
        (one, began, None, "ada", "flood", 10, 7),
        (two, began, "1970-01-01T00:00:11.000Z", "ada", "flood", 0, 0),
    ]
    (row,) = sources.rows_of([record(one)], {})
    assert (row["edge_dropped"], row["kernel_dropped"]) == (None, None), "nobody counts"


def test_top_counts_the_blocks_in_force() -> None:
    rows = [{"scope": "source/10.0.0.0/8", "block": True, **more} for more in ({}, {"until_ms": 5}, {"unblock": True})]
    event = {"sample": {}, "at_ms": 10, "control": {"overrides": [*rows, {"scope": "device/d", "block": True}]}}
    assert pipeline(event)[-1] == {"figure": "sources blocked", "value": 1.0, "unit": "prefixes"}
    assert pipeline({"sample": {}})[-1]["value"] == 0.0


def test_no_source_of_a_recorded_worker_is_blocked(run: Run, recorded: str) -> None:
    assert run("sources", "blocked", "--url", recorded).stdout == "no source is blocked\n"
    assert json.loads(run("sources", "blocked", "--url", recorded, "-o", "json").stdout) == {"blocked": []}


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ("0.0.0.0/0", "an IPv4 prefix to block has 8 to 32"),
        ("::/0", "an IPv6 prefix to block has 16 to 128"),
        ("192.0.2.7/24", "has host bits set"),
        ("sensor-42", "does not appear to be an IPv4 or IPv6 network"),
    ],
)
@pytest.mark.parametrize("what", ["block", "unblock"])
def test_a_prefix_that_cannot_be_blocked_is_refused_before_anything_is_written(
    run: Run, what: str, prefix: str, says: str
) -> None:
    refused = run("sources", what, prefix)
    assert refused.exit_code == 2 and says in refused.stderr
