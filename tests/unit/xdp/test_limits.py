"""Limits of the filter as integers, device ids, and the files that hold both sides of a layout."""

import math
import re
from pathlib import Path

import pytest

from klais.cli.xdp.command import RULES
from klais.xdp.device_id import padded, readable
from klais.xdp.layout import (
    DEVICE_COST,
    GLOBAL_COST,
    LIMIT,
    MAX_CAP,
    MAX_EXTENSIONS,
    MAX_TAGS,
    Monitor,
    Verdict,
    map_specs,
)
from klais.xdp.limits import Limits, from_units, pack, to_units, unpack

BPF = Path(__file__).parents[3] / "bpf"


@pytest.mark.parametrize("rate", [1, 3, 999.0, 1e6, 99_999_989, 1e8])
@pytest.mark.parametrize("cost", [GLOBAL_COST, DEVICE_COST])
def test_rates_are_whole_units_and_come_back(rate: float, cost: int) -> None:
    limit = to_units(rate, 1000, cost)
    assert limit["rate_units"] == rate * cost / 1e9 and limit["cap_units"] == 1000 * cost
    assert limit["fill_ns"] == math.ceil(1000 * cost / (rate * cost / 1e9))
    assert from_units(limit, cost) == (rate, 1000)


def test_a_device_may_send_once_in_a_thousand_seconds() -> None:
    assert from_units(to_units(0.001, 1, DEVICE_COST), DEVICE_COST) == (0.001, 1.0)


def test_no_limit_and_bursts_beyond_what_is_held() -> None:
    limits = Limits(math.inf, math.inf, 10.0, math.inf)
    assert unpack(pack(limits)) == Limits(math.inf, math.inf, 10.0, MAX_CAP / DEVICE_COST)
    assert to_units(math.inf, 5, GLOBAL_COST).tobytes() == bytes(LIMIT.itemsize)
    assert to_units(5, 1e12, DEVICE_COST)["cap_units"] == MAX_CAP


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.nan, 1), (1, 0), (1, 0.9), (1, math.nan)])
def test_limits_that_would_stop_everything_are_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        to_units(rate, burst, GLOBAL_COST)


def test_device_ids_as_people_write_them() -> None:
    assert padded("dev-1") == padded(b"dev-1\0\0") == b"dev-1" + bytes(11)
    assert readable(padded("häuschen")) == "häuschen"
    for wrong in ("", "x" * 17, "ä" * 9, b"a\0b"):
        with pytest.raises(ValueError, match="1 to 16 bytes"):
            padded(wrong)


def test_every_map_of_the_header_has_a_specification() -> None:
    (_, names) = (BPF / "klais.h").read_text().split("#define KLAIS_MAPS(X)")
    assert re.findall(r"X\((\w+)\)", names) == [spec.name for spec in map_specs(1024, 4096)]
    assert all(len(spec.kernel_name) < 16 for spec in map_specs(1024, 4096))


def test_the_page_says_how_many_headers_the_parser_walks() -> None:
    page = " ".join((BPF.parent / "docs" / "xdp.md").read_text().split())
    assert f"up to {MAX_TAGS} VLAN tags" in page and f"up to {MAX_EXTENSIONS} extension headers" in page
    assert f"more than {MAX_EXTENSIONS} extension headers" in page
    found = re.findall(r"(\w+) (?:IPv6 )?extension headers", page)
    assert set(found) <= {str(MAX_EXTENSIONS), "of"}


def test_every_verdict_and_every_rule_to_monitor_is_on_the_page() -> None:
    page = (BPF.parent / "docs" / "xdp.md").read_text()
    verdicts = [verdict.label for verdict in Verdict if not verdict.label.startswith("would_")]
    assert [label for label in verdicts if f"`{label}`" not in page] == []
    assert [name for name in RULES if f"`{name}`" not in page] == []
    assert [rule.name.lower() for rule in Monitor if rule.name.lower() not in RULES] == []


def test_verdicts_that_pass() -> None:
    passing = {verdict.label for verdict in Verdict if not verdict.drops and not verdict.label.startswith("would_")}
    assert passing == {"pass", "not_ours", "fragment", "too_long", "aggregated"}
    assert Verdict.WOULD_BAD_MAGIC.label == "would_bad_magic"
