"""Which folders and files are used, which are refused, and with which modes they are made."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.errors import NotPrivate
from klais.system.private_files import check_tree, named_folder, open_own, own_folder, write_own
from tests.support.others import giver

MAKE = os.O_RDWR | os.O_CREAT


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    return giver(monkeypatch)


@pytest.fixture(autouse=True)
def open_umask() -> object:
    """No mode of these tests may come from the umask."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("make", [lambda path: named_folder(path, "KLAIS_X"), own_folder])
def test_folders_are_made_for_this_user_alone_with_their_parents(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert make(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)
    assert make(tmp_path / "a" / "b").is_dir(), "again"


def test_a_named_folder_keeps_its_mode_and_an_own_one_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    named_folder(tmp_path, "KLAIS_X")
    assert mode(tmp_path) == 0o755
    own_folder(tmp_path)
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777, 0o1777])
def test_folders_that_others_may_write_to_are_refused(tmp_path: Path, bits: int) -> None:
    tmp_path.chmod(bits)
    with pytest.raises(NotPrivate, match=r"others can write to it.*chmod go-w.*KLAIS_X"):
        named_folder(tmp_path, "KLAIS_X")
    with pytest.raises(NotPrivate, match=r"others can write to it.*remove or rename"):
        own_folder(tmp_path)
    assert mode(tmp_path) == bits


def test_folders_of_another_user_are_refused(tmp_path: Path, give: Callable[[Path], None]) -> None:
    give(tmp_path)
    for use in (lambda: named_folder(tmp_path, "KLAIS_X"), lambda: own_folder(tmp_path)):
        with pytest.raises(NotPrivate, match="belongs to uid"):
            use()


def test_a_link_may_lead_to_a_named_folder_and_to_none_of_our_own(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(named_folder(tmp_path / "real", "KLAIS_X"))
    assert named_folder(link, "KLAIS_X") == link
    with pytest.raises(NotPrivate, match="symbolic link"):
        own_folder(link)


def test_a_link_of_another_user_leads_nowhere(tmp_path: Path, give: Callable[[Path], None]) -> None:
    link = tmp_path / "link"
    link.symlink_to(named_folder(tmp_path / "real", "KLAIS_X"))
    give(link)
    with pytest.raises(NotPrivate, match="link of uid"):
        named_folder(link, "KLAIS_X")


def test_a_file_is_made_and_kept_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    os.close(open_own(path, MAKE))
    assert mode(path) == 0o600
    path.chmod(0o644)
    os.close(open_own(path, os.O_RDONLY))
    assert mode(path) == 0o600, "what an older version left open to read is closed"


@pytest.mark.parametrize("bits", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused_and_not_emptied(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "file"
    path.write_text("theirs")
    path.chmod(bits)
    with pytest.raises(NotPrivate, match=r"others can write to it.*remove it"):
        open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    assert path.read_text() == "theirs"


def test_a_file_of_another_user_is_refused(tmp_path: Path, give: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_text("")
    give(path)
    with pytest.raises(NotPrivate, match="belongs to uid"):
        open_own(path, MAKE)


def test_links_folders_and_pipes_are_no_files_of_ours(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("kept")
    link.symlink_to(target)
    os.mkfifo(pipe, 0o600)
    with pytest.raises(NotPrivate, match="symbolic link"):
        open_own(link, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with pytest.raises(NotPrivate, match="not a regular file"):
        open_own(pipe, os.O_RDONLY)
    with pytest.raises(OSError):
        open_own(tmp_path, MAKE)
    assert target.read_text() == "kept"


def test_truncating_and_writing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("long text", "short"):
        with open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
            file.write(text)
        assert path.read_text() == text


def test_write_takes_the_place_of_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "file"
    target.write_text("kept")
    path.symlink_to(target)
    write_own(path, b"new")
    assert target.read_text() == "kept" and path.read_bytes() == b"new"
    assert not path.is_symlink() and mode(path) == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "target"]


def tree(root: Path) -> Path:
    leaf = own_folder(root / "numba" / "0123")
    (leaf / "sub").mkdir()
    (leaf / "sub" / "index.nbi").write_bytes(b"")
    return leaf


def test_a_tree_of_our_own_is_fine(tmp_path: Path) -> None:
    check_tree(tree(tmp_path), tmp_path)


@pytest.mark.parametrize("part", [".", "numba", "numba/0123"])
def test_a_tree_below_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, part: str) -> None:
    leaf = tree(tmp_path)
    (tmp_path / part).chmod(0o777)
    with pytest.raises(NotPrivate, match=r"others can write to it.*KLAIS_CACHE_DIR"):
        check_tree(leaf, tmp_path)


@pytest.mark.parametrize("part", [".", "numba", "numba/0123", "numba/0123/sub", "numba/0123/sub/index.nbi"])
def test_a_tree_of_which_a_part_is_anothers_is_refused(tmp_path: Path, give: Callable[[Path], None], part: str) -> None:
    leaf = tree(tmp_path)
    give(tmp_path / part)
    with pytest.raises(NotPrivate, match="belongs to uid"):
        check_tree(leaf, tmp_path)


def test_a_tree_with_a_link_in_it_is_refused(tmp_path: Path) -> None:
    leaf = tree(tmp_path)
    (tmp_path / "numba").rename(tmp_path / "elsewhere")
    (tmp_path / "numba").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPrivate, match="symbolic link"):
        check_tree(leaf, tmp_path)
