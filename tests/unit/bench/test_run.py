"""A run goes on past benchmarks that fail or cannot run, and ends with the verdict on each must."""

import json
import types
from pathlib import Path
from typing import Any

import pytest

from bench import run
from bench.cases.idle import note, ratios
from bench.harness import Bench, BenchFailed, BenchUnavailable
from bench.harness.report import TARGETS, Result
from bench.verdicts import verdicts
from klais.errors import SetupMissing, XdpUnavailable


def missing_program(_: Bench) -> Result:
    raise FileNotFoundError(2, "No such file or directory", "ip")


def raising(error: Exception) -> Any:
    def case(_: Bench) -> Result:
        raise error

    return case


def kernels(_: Bench) -> Result:
    return Result("kernels", figures={"payload_check_small_ns": 160.0})


def test_a_run_goes_on_past_what_cannot_run_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "xdp": raising(BenchUnavailable("bpf(2) needs root: run it with sudo")),
        "flood": missing_program,
        "auth": raising(XdpUnavailable("the filter is not loaded: load it")),
        "hostile": raising(BenchFailed("no good frame was sent")),
        "kernels": kernels,
    }
    modules = {f"bench.cases.{name}": types.SimpleNamespace(run=case) for name, case in cases.items()}
    monkeypatch.setattr(run.importlib, "import_module", modules.__getitem__)
    output = tmp_path / "found.json"
    assert run.main([*cases, "--json", "--output", str(output)]) == 1  # because of hostile only
    said = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["failed"] == {"hostile": "no good frame was sent"} and list(found["benches"]) == ["kernels"]
    assert found["skipped"] == {
        "xdp": "bpf(2) needs root: run it with sudo",
        "flood": "the program ip is not installed: install it",
        "auth": "the filter is not loaded: load it",
    }
    assert "xdp skipped: bpf(2) needs root" in said and "hostile FAILED: no good frame was sent" in said
    assert run.main(["xdp", "kernels"]) == 0


def test_without_a_broker_the_others_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_java(self: Bench) -> Bench:
        if self._wants_broker:
            raise SetupMissing("Java is not installed: install it")
        return self

    monkeypatch.setattr(Bench, "__enter__", no_java)
    monkeypatch.setattr(Bench, "__exit__", lambda *_: None)
    monkeypatch.setattr(run.importlib, "import_module", lambda _: types.SimpleNamespace(run=kernels))
    assert run.main(["worker", "kernels"]) == 0
    said = capsys.readouterr().out
    assert "== kernels" in said and "worker skipped: Java is not installed" in said


def test_every_must_has_a_verdict() -> None:
    results = [Result("xdp", figures={"drop_bad_magic_ns": 26.0, "pass_ns": 130.0})]
    text = "\n".join(verdicts(("xdp", "flood", "kernels"), results, {"flood": "run it with sudo"}, {"kernels": "a\nb"}))
    assert "must met" in text and "MUST MISSED" in text and text.count("not measured") == 3  # and in the last line
    assert "1 musts met, 1 missed, 2 not measured" in text
    assert "flood skipped: run it with sudo" in text and "kernels FAILED: b" in text
    everything = verdicts(run.NAMES, [], {}, {})
    musts = [t for name in run.NAMES for t in TARGETS.get(name, ()) if t.must is not None]
    assert len(everything) == len(musts) + 2


def test_what_the_verdicts_on_an_idle_system_are_about() -> None:
    result = Result("idle", figures={"target_ms": 100.0})
    for way, rate, cores, p99_ms in (("klais", 0, 0.06, None), ("klais", 100, 0.2, 83.0), ("plain", 0, 0.03, None)):
        note(result, way, {"cores": cores, **({"p99_ms": p99_ms} if p99_ms else {})}, rate=rate, devices=50)
    note(result, "plain", {"cores": 0.8, "p99_ms": 50.0}, rate=100, devices=50)
    note(result, "klais", {"cores": 0.3, "p99_ms": 250.0}, rate=2000, target="250ms")
    ratios(result, 50)
    assert result.figures["of_plain_100"] == 0.25 and result.figures["p99_of_target"] == 0.83
