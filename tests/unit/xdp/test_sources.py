"""Source prefixes as people write them, and the rules made of them."""

from contextlib import nullcontext

import numpy as np
import pytest

from klais.system.prefix import network_of
from klais.xdp.layout import CONFIG, SourceRule
from klais.xdp.sources import SourceLimit, Sources, key_of, network_of_key


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("::ffff:0:0/95", None),  # more than the IPv4 addresses: it has host bits
    ],
)
def test_prefixes_go_into_keys_and_come_back(text: str, shown: str | None) -> None:
    if shown is None:
        with pytest.raises(ValueError, match="host bits"):
            network_of(text)
    else:
        assert str(network_of_key(key_of(network_of(text)))) == shown


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "host", "10.0.0", "fd00::/129", "10.0.0.0-10.0.0.9"])
def test_what_is_no_prefix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network_of(text)


@pytest.mark.parametrize(
    "limit",
    [SourceLimit(5, 10), SourceLimit(0.5, 1, 24, 48), SourceLimit(1e6, 1e6, 1, 128), SourceLimit(ipv4_prefix=8)],
)
def test_a_limit_comes_back_as_it_was_set_and_never_in_the_slot_in_use(limit: SourceLimit) -> None:
    config = np.zeros((), CONFIG)
    sources = Sources(-1, config, nullcontext)
    for _ in range(6):
        before = int(config["source_slot"])
        sources.set_limit(limit)
        assert sources.limit() == limit and int(config["source_slot"]) != before
    sources.set_limit(SourceLimit())
    assert not int(config["source_rules"]) & SourceRule.RATE


@pytest.mark.parametrize(
    "limit", [SourceLimit(5, 10, 0), SourceLimit(5, 10, 33), SourceLimit(5, 10, 32, 129), SourceLimit(0, 1)]
)
def test_limits_that_make_no_sense_are_refused(limit: SourceLimit) -> None:
    config = np.zeros((), CONFIG)
    with pytest.raises(ValueError, match=r"bits|must be"):
        Sources(-1, config, nullcontext).set_limit(limit)
    assert config == np.zeros((), CONFIG), "and nothing is changed"
