"""What is refused as a model, and which one is active."""

import json
import os
import resource
from pathlib import Path

import pytest

from klais.errors import ModelNotWritten, ModelRefused
from klais.models.card import read_card, read_file, write_model
from klais.models.store import ModelStore
from klais.system.private_files import write_own
from tests.support.needs import need_missing

ABOUT = {"kind": "traffic", "version": "m1"}


def model(root: Path, version: str = "m1") -> Path:
    folder = root / "traffic" / version
    write_model(folder, {"a.bin": b"content"}, ABOUT | {"version": version})
    return folder


def edit(folder: Path, **fields: object) -> None:
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_model_is_read_back(tmp_path: Path) -> None:
    folder = model(tmp_path)
    card = read_card(folder)
    assert (card.kind, card.version, read_file(folder, card, "a.bin")) == ("traffic", "m1", b"content")


def test_damage_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = model(tmp_path)
    card = read_card(folder)
    (folder / "a.bin").write_bytes(b"Content")
    with pytest.raises(ModelRefused, match=r"damaged.*SHA-256"):
        read_file(folder, card, "a.bin")
    with pytest.raises(ModelRefused, match=r"holds no b\.bin"):
        read_file(folder, card, "b.bin")
    (folder / "a.bin").unlink()
    with pytest.raises(ModelRefused, match="cannot be read"):
        read_file(folder, card, "a.bin")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"kind": "traffic"}', '{"kind":1,"version":2,"files":3}'])
def test_a_damaged_card_is_refused(tmp_path: Path, content: str) -> None:
    folder = model(tmp_path)
    (folder / "card.json").write_text(content)
    with pytest.raises(ModelRefused, match="damaged"):
        read_card(folder)


def test_another_format_and_a_way_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path)
    edit(folder, format=2)
    with pytest.raises(ModelRefused, match="format 2"):
        read_card(folder)
    edit(folder, format=1, files={"../secret": "0"})
    with pytest.raises(ModelRefused, match="points outside"):
        read_card(folder)


def test_what_others_may_write_or_link_to_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path)
    card = read_card(folder)
    (folder / "a.bin").chmod(0o666)
    with pytest.raises(ModelRefused, match="others can write"):
        read_file(folder, card, "a.bin")
    folder.chmod(0o777)
    with pytest.raises(ModelRefused, match="others can write"):
        read_card(folder)
    folder.chmod(0o755)
    (folder / "a.bin").rename(tmp_path / "a.bin")
    (folder / "a.bin").symlink_to(tmp_path / "a.bin")
    with pytest.raises(ModelRefused, match="cannot be read"):
        read_file(folder, card, "a.bin")


def test_another_users_model_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        need_missing("root", "only root can give a file away")
    folder = model(tmp_path)
    os.chown(folder / "a.bin", 1234, 1234)
    with pytest.raises(ModelRefused, match="belongs to uid 1234"):
        read_file(folder, read_card(folder), "a.bin")
    os.chown(folder, 1234, 1234)
    found = ModelStore(tmp_path, tmp_path / "none").models("traffic")[0]
    assert found.card is None and "belongs to uid 1234" in found.problem


def test_the_shipped_model_is_active_until_another_one_is(tmp_path: Path) -> None:
    own, package = tmp_path / "own", tmp_path / "package"
    model(package, "shipped-1")
    store = ModelStore(own, package)
    assert [(m.version, m.active, m.shipped) for m in store.models("traffic")] == [("shipped-1", True, True)]
    before = store.stamp("traffic")
    folder = store.new_folder("traffic", "own-1")
    write_model(folder, {"a.bin": b"x"}, ABOUT | {"version": "own-1"})
    store.activate("traffic", "own-1")
    assert store.stamp("traffic") != before
    assert [m.version for m in store.candidates("traffic")] == ["own-1", "shipped-1"]
    assert store.models("traffic")[0].active
    store.activate("traffic", "shipped-1")
    assert [m.version for m in store.candidates("traffic")] == ["shipped-1"]


def test_nothing_unusable_becomes_active(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(0o700)
    store = ModelStore(own, tmp_path / "package")
    folder = model(own, "own-1")
    with pytest.raises(ModelRefused, match="no model traffic other; there are own-1"):
        store.activate("traffic", "other")
    (folder / "a.bin").write_bytes(b"damaged")
    with pytest.raises(ModelRefused, match="damaged"):
        store.activate("traffic", "own-1")
    assert store.active_version("traffic") is None


@pytest.mark.parametrize("existing", [False, True])
def test_a_model_that_does_not_fit_the_disk_is_named_and_leaves_no_file(tmp_path: Path, existing: bool) -> None:
    folder = tmp_path / "traffic" / "m1"
    folder.parent.mkdir()
    if existing:
        model(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ModelNotWritten, match=r"m1/\.b\.bin\.part cannot be written: File too large"):
            write_model(folder, {"b.bin": bytes(10_000)}, ABOUT | {"version": "m1"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_in_another_ones_folder_and_an_unfinished_one_are_no_models(tmp_path: Path) -> None:
    folder = model(tmp_path, "m1")
    folder.rename(folder.with_name("m2"))
    unfinished = tmp_path / "traffic" / "m3"
    unfinished.mkdir()
    (unfinished / "a.bin").write_bytes(b"killed before the card was written")
    problems = {m.version: m.problem for m in ModelStore(tmp_path, tmp_path / "none").models("traffic")}
    assert "belongs to another folder" in problems["m2"]
    assert "cannot be read" in problems["m3"]


def test_files_are_on_the_disk_before_they_get_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power loss a file system may have a name without its content."""
    steps: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(f"sync {os.fstat(fd).st_size}"), sync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("name"), replace(*names))[1])
    write_own(tmp_path / "active", b"v1\n")
    assert steps == ["sync 3", "name"]
    steps.clear()
    write_model(tmp_path / "m1", {"a.bin": b"content"}, ABOUT | {"version": "m1"})
    assert steps[:2] == ["sync 7", "name"] and len(steps) == 4 and steps[2].startswith("sync ")
