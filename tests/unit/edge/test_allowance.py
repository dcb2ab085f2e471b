"""Dead letters of an edge: bounded in records and bytes, and shared fairly by reason and source."""

import ipaddress

import numpy as np
import pytest

from klais.core.wire.constants import Reason
from klais.edge.sinks.allowance import FairAllowance

T0_NS = 10**12
ROUND_NS = 10_000_000
KEY = bytes(16)  # a fixed one: with one key of 256 two addresses share a class


def sources(*addresses: str) -> np.ndarray:
    """uint8 [n, 18]; the port is part of no class."""
    rows = []
    for n, text in enumerate(addresses):
        address = ipaddress.ip_address(text)
        packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
        rows.append(packed + n.to_bytes(2, "big"))
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 18)


class Flood:
    """Rounds of 10 ms; a sender is (reason, address, frames a round, bytes of a frame)."""

    def __init__(self, records_per_s: float, bytes_per_s: float = 1e9) -> None:
        self.allowance, self.now_ns = FairAllowance(records_per_s, bytes_per_s, 2072, KEY), T0_NS
        self.bytes = 0

    def run(self, senders: list[tuple[Reason, str, int, int]], seconds: float) -> list[int]:
        """Letters of each sender."""
        who = np.repeat(np.arange(len(senders)), [count for _, _, count, _ in senders])
        reason = np.array([senders[i][0] for i in who], np.uint8)
        rows = sources(*(senders[i][1] for i in who))
        lengths = np.array([senders[i][3] for i in who], np.int64)
        got = np.zeros(len(senders), np.int64)
        for _ in range(round(seconds * 1e9 / ROUND_NS)):
            self.now_ns += ROUND_NS
            sent = self.allowance.choose(np.arange(len(who)), reason, lengths, rows, self.now_ns)
            got += np.bincount(who[sent], minlength=len(senders))
            self.bytes += int(np.minimum(lengths[sent], 2072).sum())
        return got.tolist()


def test_a_single_flood_gets_nearly_the_whole_rate_and_never_more() -> None:
    flood = Flood(100)
    assert 990 <= flood.run([(Reason.BAD_MAGIC, "10.0.0.1", 500, 30)], 10)[0] <= 1100


def test_bytes_are_bounded_too() -> None:
    flood = Flood(1000, 10_000)
    flood.run([(Reason.BAD_MAGIC, "10.0.0.1", 50, 2000)], 10)
    assert 90_000 <= flood.bytes <= 110_000


def test_a_frame_above_the_bound_costs_the_part_that_a_letter_has() -> None:
    flood = Flood(1000, 10_000)
    assert sum(flood.run([(Reason.TOO_LONG, "10.0.0.1", 50, 65_000)], 10)) >= 90_000 // 2072


@pytest.mark.parametrize(
    ("loud", "quiet"),
    [
        ((Reason.BAD_MAGIC, "10.0.0.1"), (Reason.TOO_LONG, "10.0.0.1")),
        ((Reason.BAD_MAGIC, "10.0.0.1"), (Reason.BAD_MAGIC, "192.168.7.7")),
        ((Reason.BAD_MAGIC, "2001:db8::1"), (Reason.BAD_MAGIC, "2001:db9::1")),
    ],
    ids=["reason", "source", "network"],
)
def test_a_flood_of_one_reason_or_source_does_not_hide_another(loud, quiet) -> None:
    flood = Flood(100)
    flood.run([(*loud, 500, 30)], 10)  # it has used up all it can get before the other one comes
    assert flood.run([(*loud, 500, 30), (*quiet, 1, 30)], 0.05)[1] == 5  # each of its five frames
    many, few = flood.run([(*loud, 500, 30), (*quiet, 500, 30)], 10)
    assert 0.8 < many / few < 1.25  # equal shares of two floods


def test_addresses_of_one_network_are_one_source() -> None:
    """An attacker has 2^72 of them."""
    flood = Flood(1000)
    spray = [(Reason.BAD_MAGIC, f"2001:db8::{n:x}", 1, 30) for n in range(1, 500)]
    flood.run(spray, 5)
    assert flood.run([*spray, (Reason.BAD_MAGIC, "2001:db9::1", 1, 30)], 0.1)[-1] == 10


def test_tokens_come_back_with_time_and_a_rate_of_0_is_off() -> None:
    flood = Flood(10)
    sender = [(Reason.BAD_MAGIC, "10.0.0.1", 50, 30)]
    first = flood.run(sender, 0.01)[0]
    assert 0 < first <= 10
    flood.now_ns += 10**11
    assert flood.run(sender, 0.01)[0] == first
    assert Flood(0).run(sender, 1) == Flood(10, 0).run(sender, 1) == [0]
    assert sum(Flood(0.1).run(sender, 30)) == 3  # one in ten seconds, the first at once
