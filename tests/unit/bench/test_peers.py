"""Peers: what is not there is named with its reason, text frames are as long as binary ones, figures have a place."""

from pathlib import Path

import numpy as np
import pytest

from bench.cases.ablation import ALL as ABLATIONS
from bench.cases.peers import catalog, install
from bench.cases.peers.catalog import GATEWAYS, WORKERS, Does, Peer, missing
from bench.cases.peers.programs.text_sender import TextStream
from bench.cases.peers.run import PAIRS, Comparison
from bench.harness import Bench
from bench.harness.report import TARGETS
from bench.kept import KeptSamples
from bench.paper_tables import TABLES
from klais.config.load import Settings
from klais.sim.stream import FrameStream, StreamOptions

NOTHING = Does("no", "no", "no", "no", "no")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KLAIS_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_a_peer_that_is_not_there_is_named_with_its_reason(cache: Path) -> None:
    peer = Peer("none", "Nobody's gateway", NOTHING, python=("none",), program="venv/bin/none")
    assert "bench peers --install" in str(missing(peer))
    bench = Bench(broker=False)
    comparison = Comparison(bench, repeats=2)
    comparison.in_turns("gateway", [peer], lambda peer, earlier: pytest.fail("it was measured"))
    (row,) = comparison.result.rows
    assert row["peer"] == peer.title and "--install" in row["not_measured"]
    assert comparison.without == {peer.title: missing(peer)}
    bench.folder.rmdir()


def test_a_peer_that_fails_keeps_what_it_gave_and_its_reason(cache: Path) -> None:
    peer = Peer("half", "Half a gateway", NOTHING)
    runs = iter([{"gateway_us": 2.0, "frames": "text"}])

    def once(peer: Peer, earlier: object) -> dict[str, object]:
        return next(runs)  # the second raises StopIteration

    bench = Bench(broker=False)
    comparison = Comparison(bench, repeats=3)
    comparison.in_turns("gateway", [peer], once)
    (row,) = comparison.result.rows
    assert row["gateway_us"] == comparison.result.figures["gateway_us_half"] == 2.0
    assert row["not_measured"] == "StopIteration"
    bench.folder.rmdir()


def test_an_installation_that_fails_leaves_its_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer("none", "Nobody's gateway", NOTHING, debian=("none",), program="root/none")
    said: list[str] = []
    monkeypatch.setenv("PATH", str(cache))  # a system without apt-get
    assert install.install([peer], said.append) == 1
    assert missing(peer) == (catalog.folder(peer) / "why-not.txt").read_text().strip()
    assert "cannot be installed" in str(missing(peer)) and said[-1].startswith("Nobody's gateway: ")


def test_text_frames_are_as_long_and_have_no_byte_that_is_not_text() -> None:
    options = StreamOptions(devices=3, seed=1)
    binary, text = FrameStream(options).next_chunk(), TextStream(options).next_chunk()
    assert np.array_equal(binary.lengths, text.lengths)
    assert text.frame(1).startswith(b"<134>sim-000002       {")
    assert text.frame(1)[22:] == binary.frame(1)[22:]
    assert text.frame(1).decode("ascii").isprintable()


def test_each_peer_and_each_ablation_has_its_row_in_the_paper() -> None:
    for name, count in (("gateways", len(GATEWAYS)), ("stream-workers", len(WORKERS)), ("ablations", len(ABLATIONS))):
        assert len(TABLES[name].lines(KeptSamples([]))) == 2 + count


def test_the_longer_linger_of_rsyslog_is_the_default_of_klais() -> None:
    assert {peer.linger_ms for peer in GATEWAYS} == {10.0, None, Settings().linger_ms}


def test_verdicts_are_about_figures_that_a_run_gives() -> None:
    bench = Bench(broker=False)
    comparison = Comparison(bench)
    names = [f"{part}_us_{at}" for part in ("both", "broker") for at in ("20k", "60k")]
    figures = {f"{name}_{peer}": 1.0 for name in names for peer in {name for pair in PAIRS.values() for name in pair}}
    comparison.result.figures = figures | {"worker_us_klais": 2.0, "worker_us_quixstreams": 100.0}
    comparison.ratios()
    assert {target.figure for target in TARGETS["peers"]} <= set(comparison.result.figures)
    assert comparison.result.figures["worker_times_cheaper_than_quixstreams"] == 50
    bench.folder.rmdir()
