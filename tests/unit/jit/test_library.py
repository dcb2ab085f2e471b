"""A library of compiled kernels is code: it is loaded whole, unchanged, made of these sources, and ours; or not."""

import errno
import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from klais.errors import NotPrivate
from klais.jit import build, library
from klais.jit.library import LIBRARY, MANIFEST, NoLibrary, library_folder, open_library, shipped_folder
from klais.jit.machine import levels
from klais.jit.options import JIT_OPTIONS
from klais.system.child import OwnedChild
from klais.system.file_lock import lock_file


class Made:
    """A package of one file and a library of it that no dynamic loader takes; everything before that is in order."""

    def __init__(self, root: Path) -> None:
        self.package = root / "klais"
        self.package.mkdir()
        self.source = self.package / "kernels.py"
        self.source.write_text("@kernel(void())")
        self.folder = library_folder(self.package) / levels()[0]
        self.folder.mkdir(parents=True, mode=0o700)
        self.file = self.folder / LIBRARY
        self.file.write_bytes(b"code")
        self.file.chmod(0o600)
        self.write({})

    def write(self, changes: dict[str, Any]) -> None:
        """The manifest, with changes."""
        manifest = {"sha256": hashlib.sha256(b"code").hexdigest(), "kernels": []}
        (self.folder / MANIFEST).write_text(json.dumps(manifest | changes))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("KLAIS_CACHE_DIR", str(tmp_path / "cache"))
    before = os.umask(0o077)
    try:
        return Made(tmp_path)
    finally:
        os.umask(before)


def refusal(made: Made) -> str:
    with pytest.raises(NoLibrary) as raised:
        open_library(made.package)
    return str(raised.value)


def test_a_library_of_the_package_itself_reaches_the_loader_and_must_be_whole(made: Made) -> None:
    shipped = shipped_folder(made.package) / levels()[0]
    shipped.parent.mkdir(parents=True)
    made.folder.rename(shipped)
    (shipped / LIBRARY).chmod(0o664)  # as pip may install files: whoever could change it could change the package
    assert "cannot be loaded" in refusal(made)
    (shipped / LIBRARY).write_bytes(b"c0de")
    assert "is damaged" in refusal(made)
    (shipped / LIBRARY).write_bytes(b"code")
    made.source.write_text("@kernel(int64())")
    assert "no library of these sources" in refusal(made)


def test_a_sound_library_reaches_the_loader(made: Made) -> None:
    assert "cannot be loaded" in refusal(made)


def test_there_is_none(made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLAIS_CACHE_DIR", str(tmp_path))
    assert "no library of these sources" in refusal(made)


def test_of_other_sources(made: Made) -> None:
    made.source.write_text("@kernel(void(I64))")
    assert "no library of these sources" in refusal(made)
    made.source.write_text("@kernel(void())")
    assert "cannot be loaded" in refusal(made)
    (made.package / "more.py").write_text("@kernel(void())")
    assert "no library of these sources" in refusal(made)


def test_for_other_cpus(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "levels", lambda: ["x86-64-v9"])
    assert "no library of these sources" in refusal(made)


def test_a_tree_of_equal_sources_shares_it(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "other" / "klais"
    other.mkdir(parents=True)
    (other / "kernels.py").write_bytes(made.source.read_bytes())
    assert library_folder(other) == library_folder(made.package)


def test_loading_waits_for_no_build(made: Made) -> None:
    held = lock_file(made.folder.parent / ".lock", "a build", 0.0)
    try:
        assert "cannot be loaded" in refusal(made)
    finally:
        os.close(held)


def test_damaged(made: Made) -> None:
    made.file.write_bytes(b"cods")
    assert "is damaged" in refusal(made)
    made.file.unlink()
    assert "cannot be opened" in refusal(made)


@pytest.mark.parametrize("changes", [{"sha256": None}, {"kernels": None}, {"kernels": [[]]}])
def test_a_manifest_that_does_not_fit(made: Made, changes: dict[str, Any]) -> None:
    made.write(changes)
    refusal(made)


@pytest.mark.parametrize("text", ["", "{", "[]", "\0"])
def test_a_manifest_cut_short(made: Made, text: str) -> None:
    (made.folder / MANIFEST).write_text(text)
    assert MANIFEST in refusal(made)


@pytest.mark.parametrize("place", ["file", "folder", "above", "root"])
def test_others_may_write_it(made: Made, place: str) -> None:
    places = {"file": made.file, "folder": made.folder, "above": made.folder.parent, "root": made.folder.parents[2]}
    places[place].chmod(0o777)
    with pytest.raises(NotPrivate, match="others can write to it"):
        open_library(made.package)


def test_it_belongs_to_somebody_else(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: made.file.stat().st_uid + 1)
    monkeypatch.setattr(library, "check_tree", lambda *_: None)  # it looks at the folders; here for the file
    if made.file.stat().st_uid == 0:
        os.chown(made.file, 12345, -1)
    with pytest.raises(NotPrivate, match="it belongs to uid"):
        open_library(made.package)


def test_a_link_is_not_followed(made: Made) -> None:
    target = made.folder / "elsewhere.so"
    made.file.rename(target)
    made.file.symlink_to(target)
    assert "cannot be opened" in refusal(made)


def test_one_line_says_that_numba_is_imported_and_why(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from klais.jit import kernel

    for name in ("KLAIS_JIT", *JIT_OPTIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kernel, "open_library", lambda: open_library(made.package))
    with caplog.at_level(logging.WARNING):
        kernel.choose_maker()
    (record,) = caplog.records
    assert "cannot be loaded" in record.getMessage() and "`klais warm`" in record.getMessage()


def test_a_part_that_cannot_be_started_leaves_no_other_part_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would write into the folder of the next build of the same library."""
    started: list[OwnedChild] = []

    def start(_words: list[str], log: Path | None, env: dict[str, str]) -> OwnedChild:
        if started:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        started.append(OwnedChild([sys.executable, "-c", "import time; time.sleep(600)"], log, env))
        return started[0]

    monkeypatch.setattr(build, "OwnedChild", start)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        build._compile(tmp_path, levels()[0], ["klais.core.anomaly.light", "klais.edge.kernels"], 2)
    assert started[0].returncode is not None
