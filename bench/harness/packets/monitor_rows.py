"""Fixtures of the monitor mode: a rule that only counts the packets that it would have dropped."""

from collections.abc import Iterator

from bench.harness.packets.row import PADDED, V6, WIDE, Row, frame, sent, with_id
from bench.harness.packets.source_rows import far_away, frames_from
from klais.system.prefix import network_of
from klais.xdp.layout import Verdict
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps
from klais.xdp.sources import SourceLimit


def _far_away_and_blocked(maps: XdpMaps) -> None:
    far_away(maps)
    maps.block("monitor-away", 60)


def _source_blocked(maps: XdpMaps) -> None:
    maps.source_blocks.block(network_of("10.9.0.0/16"), 60)


def _both_blocked(maps: XdpMaps) -> None:
    _source_blocked(maps)
    maps.block("monitor-away", 60)


def monitored_packets() -> Iterator[Row]:
    """Rules about headers and sources in monitor mode."""
    for name, payload, verdict in (
        ("too short", frame("m")[:21], Verdict.WOULD_TOO_SHORT),
        ("wrong magic", b"w" * 30, Verdict.WOULD_BAD_MAGIC),
        ("bad device id", with_id(b"\xff"), Verdict.WOULD_BAD_DEVICE_ID),
    ):
        yield Row(f"monitor: {name}", sent(payload), verdict, None, rules=("magic",))
    seven = sent(frame("seven"), V6, extensions=(PADDED,) * 7)
    yield Row("monitor: unparsable", seven, Verdict.WOULD_UNPARSABLE, None, rules=("headers",))
    away = sent(frame("monitor-away"))
    yield Row(
        "monitor: source denied", away, Verdict.WOULD_SOURCE_DENIED, None, prepare=far_away, rules=("source_list",)
    )
    yield Row(
        "monitor: source denied, and then blocked for real",
        away,
        Verdict.BLOCKED,
        None,
        prepare=_far_away_and_blocked,
        rules=("source_list",),
    )
    yield Row("monitor: source denied after its magic", sent(b"w" * 30), Verdict.WOULD_BAD_MAGIC, None,
              prepare=far_away, rules=("magic", "source_list"))  # fmt: skip
    yield Row("monitor: magic, and then its source is denied for real", sent(b"w" * 30), Verdict.SOURCE_DENIED, None,
              prepare=far_away, rules=("magic",))  # fmt: skip
    yield Row("monitor: source blocked, and then its device for real", away, Verdict.BLOCKED, None,
              prepare=_both_blocked, rules=("source_block",))  # fmt: skip
    other = sent(frame("monitor-source"))
    yield Row("monitor: source blocked", other, Verdict.WOULD_BLOCKED_SOURCE, None, prepare=_source_blocked,
              rules=("source_block",))  # fmt: skip
    one_frame = SourceLimit(0.001, 1)
    first, second = frames_from("10.2.0.1", 2)
    yield Row("monitor: source rate", second, Verdict.WOULD_SOURCE_RATE, None, WIDE, (first,),
              lambda maps: maps.sources.set_limit(one_frame), ("source_rate",))  # fmt: skip


def monitored_limits() -> Iterator[Row]:
    """Blocks and rates in monitor mode."""
    slow = Limits(1e8, 1e9, 0.001, 1)
    one, two, three = (sent(frame(f"monitor-{i}")) for i in range(3))
    yield Row(
        "monitor: blocked",
        one,
        Verdict.WOULD_BLOCKED,
        None,
        prepare=lambda m: m.block("monitor-0", 60),
        rules=("block",),
    )
    yield Row("monitor: device rate", two, Verdict.WOULD_DEVICE_RATE, None, slow, (two,), rules=("device_rate",))
    tight = Limits(1, 1, 1e6, 1e6)
    yield Row("monitor: global rate", three, Verdict.WOULD_GLOBAL_RATE, None, tight, (three,), rules=("global_rate",))
    four, five, six = (sent(frame(f"monitor-{i}")) for i in range(3, 6))
    yield Row(
        "monitor: blocked, and then over its rate for real",
        four,
        Verdict.DEVICE_RATE,
        None,
        slow,
        (four,),
        lambda m: m.block("monitor-3", 60),
        ("block",),
    )
    yield Row(
        "monitor of another rule changes nothing",
        five,
        Verdict.DEVICE_RATE,
        None,
        slow,
        (five,),
        rules=("global_rate",),
    )
    everything = ("magic", "block", "device_rate", "global_rate")
    yield Row(
        "monitor: everything, the first rule is named",
        six,
        Verdict.WOULD_BLOCKED,
        None,
        Limits(1, 1, 0.001, 1),
        (six,) * 3,
        lambda m: m.block("monitor-5", 60),
        everything,
    )
