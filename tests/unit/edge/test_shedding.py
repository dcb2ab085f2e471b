"""What an edge lets in: the bucket, the kernel against its definition, the host's part, and every frame counted."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.edge.kernels import shed
from klais.edge.shedding import SHED_NS, HostLimit, LoadShedder
from tests.unit.edge.test_spine import balance, build

HOST = "box:/pins"


@given(st.lists(st.integers(-1, 3), max_size=60), st.integers(0, 70))
def test_shed_is_its_definition(partitions: list[int], max_count: int) -> None:
    want, let_in = list(partitions), 0
    for i, partition in enumerate(partitions):
        if partition >= 0:
            let_in += 1
            if let_in > max_count:
                want[i] = -1
    column = np.array(partitions, np.int32)
    assert shed(column, max_count) == want.count(-1) - partitions.count(-1)
    assert column.tolist() == want


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 10**9)), min_size=1, max_size=50), st.floats(1, 1e4))
def test_what_is_let_in_never_exceeds_burst_and_rate_over_any_time(rounds: list[tuple[int, int]], rate: float) -> None:
    shedder, now_ns, burst = LoadShedder(), 10**9, 100.0
    shedder.limit(rate, burst)
    acquired: list[tuple[int, int]] = []
    for frames, later_ns in rounds:
        now_ns += later_ns
        acquired.append((now_ns, shedder.acquire(frames, now_ns)))
        assert 0 <= acquired[-1][1] <= frames
    for i, (begin_ns, _) in enumerate(acquired):
        for k in range(i, len(acquired)):
            elapsed_s = (acquired[k][0] - begin_ns) * 1e-9
            assert sum(n for _, n in acquired[i : k + 1]) <= burst + rate * elapsed_s + 1e-6


def test_no_limit_until_one_is_set_and_after_it_is_lifted() -> None:
    shedder = LoadShedder()
    assert shedder.acquire(10**6, 1) == 10**6
    shedder.limit(1.0, 1.0)
    assert shedder.acquire(10, 10**9) == 1
    shedder.lift()
    assert shedder.acquire(10**6, 2 * 10**9) == 10**6


def test_batches_collect_for_longer_while_frames_are_shed_so_that_records_stay_few() -> None:
    for partitions, linger_ns in ((1, 250_000_000), (4, 250_000_000), (16, 400_000_000)):
        shedder = LoadShedder(partitions)
        shedder.limit(1e-3, 5.0)
        assert shedder.acquire(5, 10**9) == 5 and shedder.linger_ns(10**9) == 0
        assert shedder.acquire(1, 2 * 10**9) == 0
        assert shedder.linger_ns(2 * 10**9 + SHED_NS - 1) == linger_ns
        assert shedder.linger_ns(2 * 10**9 + SHED_NS) == 0


class Said:
    """What followers and applier would know."""

    def __init__(self) -> None:
        self.hosts: dict[str, tuple[float, float]] = {HOST: (1000.0, 100.0)}
        self.available = False
        self.kinds: dict[str, dict[str, dict[str, Any]]] = {"controller": {"controller-w": {}}, "edge": {}}

    def intake(self, host: str) -> tuple[float, float] | None:
        return self.hosts.get(host)

    def newest(self, kind: str) -> dict[str, dict[str, Any]]:
        return self.kinds[kind]


def edge(host: str, received: float) -> dict[str, Any]:
    return {"host": host, "rates": {"received": received}}


def test_a_hosts_limit_is_shared_by_what_its_edges_receive_wider_behind_a_filter_and_not_obeyed_when_stale() -> None:
    said, shedder = Said(), LoadShedder()
    host: Any = HostLimit(shedder, "edge-1", HOST, said, said, said)  # type: ignore[arg-type]
    host.on_tick(1.0)
    assert shedder.rate_per_s == 1000.0
    said.kinds["edge"] = {"edge-1": edge(HOST, 300.0), "edge-2": edge(HOST, 100.0), "edge-3": edge("other", 900.0)}
    host.on_tick(1.05)
    assert shedder.rate_per_s == 1000.0  # not looked yet
    host.on_tick(1.2)
    assert shedder.rate_per_s == pytest.approx(750.0)
    said.available = True
    host.on_tick(1.4)
    assert shedder.rate_per_s == pytest.approx(1.2 * 750.0)
    shedder.acquire(1000, 10**9)
    assert shedder.acquire(1000, 2 * 10**9) == 89  # frames that come past the filter are limited too
    said.available, said.kinds["controller"] = False, {}
    host.on_tick(1.6)
    assert shedder.rate_per_s == np.inf
    said.kinds["controller"], said.hosts = {"controller-w": {}}, {}
    host.on_tick(1.8)
    assert shedder.rate_per_s == np.inf


@pytest.mark.parametrize("seed", range(4))
def test_what_is_shed_is_counted_and_the_rest_keeps_its_order(seed: int) -> None:
    rng = random.Random(seed)
    calls = [
        [b"junk" if rng.random() < 0.1 else encode_frame(f"d{rng.randrange(5)}", k, b"{}") for k in range(n)]
        for n in rng.choices(range(1, 60), k=20)
    ]
    spine, sink = build(calls)
    spine.shedder.limit(1e-3, 150.0)
    for _ in calls:
        spine.round(spine.source.fill(0), 0)
        assert spine.counts.received == balance(spine.counts)
    spine.drain(0.1, 0.1)
    good = sum(frame != b"junk" for call in calls for frame in call)
    dropped = int(spine.counts.by_reason[Reason.GLOBAL_RATE])
    batches = [decode_batch(built.value) for built in sink.taken]
    assert good > 150 and dropped == good - 150 == good - sum(batch.count for batch in batches)
    assert spine.counts.totals()["dropped"]["global_rate"] == dropped
    first = [frame for call in calls for frame in call if frame != b"junk"][:150]
    for partition in range(4):
        own = [batch for built, batch in zip(sink.taken, batches, strict=True) if built.partition == partition]
        frames = [batch.frame(i) for batch in own for i in range(batch.count)]
        assert frames == [f for f in first if partition_of(f[2:18].rstrip(b"\0"), 4) == partition]
