"""The compiler's rights, and what root loads into the kernel."""

import os
from pathlib import Path

import pytest

from klais.errors import SetupMissing
from klais.xdp import build, bytecode_cache
from tests.support.needs import need_missing

NOBODY = 65_534


@pytest.fixture(autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        need_missing("kernel", "giving files to another user needs root")


def test_the_compiler_runs_as_nobody_without_groups_and_environment(tmp_path: Path) -> None:
    found = build._run_unprivileged(["/bin/cat", "/proc/self/status", "/proc/self/environ"], Path("/")).stdout.decode()
    lines = dict(line.split(":", 1) for line in found.splitlines() if ":" in line)
    assert set(lines["Uid"].split()) == set(lines["Gid"].split()) == {str(NOBODY)}
    assert lines["Groups"].split() == [] and int(lines["CapEff"], 16) == 0
    assert found.splitlines()[-1].count("=") == 0, "no environment"


def test_what_it_compiles_is_what_the_cache_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAIS_CACHE_DIR", str(tmp_path))
    code = build.instructions()
    (kept,) = (tmp_path / "xdp").iterdir()
    monkeypatch.setattr(build, "_compile", lambda defines: pytest.fail("compiled again"))
    assert build.instructions() == code
    os.chown(kept, NOBODY, NOBODY)
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        build.instructions()


@pytest.mark.parametrize("what", ["", "this.bpf"], ids=["folder", "file"])
def test_root_takes_nothing_that_belongs_to_another_user(tmp_path: Path, what: str) -> None:
    bytecode_cache.write(tmp_path / "xdp", "this", b"code")
    os.chown(tmp_path / "xdp" / what, NOBODY, NOBODY)
    assert bytecode_cache.read(tmp_path / "xdp", "this") is None


def test_the_compiler_does_not_start_without_headers_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAIS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "headers_problem", lambda: "there are no kernel headers at X")
    monkeypatch.setattr(build, "_run_unprivileged", lambda *_: pytest.fail("started"))
    with pytest.raises(SetupMissing, match="no kernel headers"):
        build.instructions()


def test_headers_of_this_machine_are_roots_alone() -> None:
    assert build.headers_problem() is None
