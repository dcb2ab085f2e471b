"""``klais xdp`` on a real filter: what people read, what machines read, and what a wrong call says."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.harness.packets.netns import inside
from klais.cli.main import main
from klais.core.wire.constants import encode_frame
from tests.support.xdp import Rig, rig

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def found() -> Iterator[Rig]:
    with rig(load=False) as made:
        yield made


@pytest.fixture
def run(found: Rig, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("block", "dev-1")`` in the edge's namespace, on the rig's pins."""
    monkeypatch.setenv("KLAIS_XDP_PIN_DIR", str(found.pin_dir))

    def invoke(*words: str) -> Result:
        with inside(found.pair.edge):
            return CliRunner().invoke(main, ["xdp", *words])

    return invoke


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_before_a_load_it_says_what_to_do(run: Run) -> None:
    for words in (["status"], ["stats"], ["block", "dev-1"], ["top"]):
        result = run(*words)
        assert (
            result.exit_code == 1 and "klais xdp load --iface IF" in result.stderr and "Traceback" not in result.output
        )
    assert run("load").exit_code == 2
    assert "there is no interface 'nope'" in run("load", "--iface", "nope").stderr
    assert "no interface has the filter" in run("unload").output


def test_load_status_stats_top_unload(run: Run, found: Rig) -> None:
    done = as_json(run("load", "--iface", "in0", "--device-rate", "0.001", "--device-burst", "2", "--json"))
    assert (done["iface"], done["mode"], done["kept_maps"]) == ("in0", "native", [])
    assert "kept all maps" in run("load", "--iface", "in0", "--device-rate", "0.001", "--device-burst", "2").output
    with found.raw() as raw:
        raw.send(raw.udp(encode_frame("busy", 1, b"{}")), 5)
        raw.send(raw.udp(b"x" * 40), 3)
    status = as_json(run("status", "--json"))
    (at,) = status["attached"]
    assert (at["iface"], at["driver"], at["mode"], at["name"]) == ("in0", "veth", "native", "klais_xdp")
    assert status["in_force"]["device_rate"] == 0.001 and status["ports"] == [5000] and not status["fresh"]
    text = run("status").output
    assert "loaded by" in text and "given at load; no set-points yet" in text and at["tag"] in text
    counts = as_json(run("stats", "--json"))
    assert (counts["pass"]["packets"], counts["device_rate"]["packets"], counts["bad_magic"]["packets"]) == (2, 3, 3)
    assert "bad_magic" in run("stats").output
    (top,) = as_json(run("top", "--json"))["top"]
    assert (top["device_id"], top["passed"], top["dropped"]) == ("busy", 2, 3)
    assert "busy" in run("top", "--by", "passed").output
    assert as_json(run("unload", "--json")) == {"unloaded": ["in0"]}


def test_rules_and_modes(run: Run, found: Rig) -> None:
    found.load()
    try:
        (blocked,) = as_json(run("block", "sensor-42", "--for", "10m", "--json"))["blocked"]
        assert 590 < blocked["blocked_for_s"] <= 600
        assert "sensor-42" in run("block").output
        assert run("unblock", "sensor-42").output == "sensor-42: unblocked\n"
        assert run("unblock", "sensor-42").output == "sensor-42: was not blocked\n"
        assert "until removed" in run("allow", "vip").output
        assert "not allowed" in run("allow", "vip", "--clear").output
        (own,) = as_json(run("rate", "sensor-42", "5", "--burst", "20", "--json"))["rates"]
        assert (own["rate_per_s"], own["burst"]) == (5, 20)
        assert "no own rate" in run("rate", "sensor-42", "--clear").output
        assert as_json(run("rate", "--each", "7", "--json"))["device_rate"] == 7
        assert as_json(run("rate", "--global", "none", "--json"))["rate_per_s"] is None
        assert as_json(run("monitor", "magic", "on", "--json"))["magic"] is True
        assert as_json(run("monitor", "magic", "off", "--json"))["magic"] is False
    finally:
        found.unload()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["block", "x" * 17], "1 to 16 bytes"),
        (["block", "dev-1", "--for", "soon"], "is not a duration"),
        (["rate", "dev-1"], "DEVICE RATE"),
        (["rate", "dev-1", "0"], "to stop a device, block it"),
        (["rate", "--each", "--global", "5"], "not both"),
        (["monitor", "magic"], "on or off?"),
        (["monitor", "nonsense", "on"], "nonsense"),
    ],
)
def test_wrong_calls_say_what_is_right(run: Run, found: Rig, words: list[str], said: str) -> None:
    found.load()
    try:
        result = run(*words)
        assert result.exit_code == 2 and said in result.output + result.stderr
    finally:
        found.unload()
