"""Which kept filters count, and where the compiler may start."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.xdp import bytecode_cache
from klais.xdp.build import headers_problem

CODE = bytes(range(64))


def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "xdp"
    bytecode_cache.write(folder, "this", CODE)
    assert bytecode_cache.read(folder, "this") == CODE
    return folder


def test_what_was_kept_comes_back_and_nobody_else_may_read_or_write_it(tmp_path: Path) -> None:
    folder = kept(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["this.bpf"]
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "this.bpf").stat().st_mode & 0o777 == 0o600
    bytecode_cache.write(folder, "this", CODE[::-1])
    assert bytecode_cache.read(folder, "this") == CODE[::-1]


def linked_folder(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def linked_file(folder: Path) -> None:
    (folder / "this.bpf").rename(folder / "other.bpf")
    (folder / "this.bpf").symlink_to("other.bpf")


def changed_byte(folder: Path) -> None:
    raw = (folder / "this.bpf").read_bytes()
    (folder / "this.bpf").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def of_another_variant(folder: Path) -> None:
    bytecode_cache.write(folder, "other", CODE)
    (folder / "other.bpf").rename(folder / "this.bpf")


WAYS: tuple[Callable[[Path], None], ...] = (
    lambda folder: folder.chmod(0o770),
    lambda folder: folder.chmod(0o707),
    lambda folder: (folder / "this.bpf").chmod(0o620),
    lambda folder: (folder / "this.bpf").chmod(0o602),
    lambda folder: (folder / "this.bpf").unlink(),
    lambda folder: os.truncate(folder / "this.bpf", 20),
    lambda folder: os.truncate(folder / "this.bpf", 0),
    linked_folder,
    linked_file,
    changed_byte,
    of_another_variant,
)


@pytest.mark.parametrize("tamper", WAYS, ids=range(len(WAYS)))
def test_a_file_that_others_could_have_written_counts_for_nothing(
    tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    folder = kept(tmp_path)
    tamper(folder)
    assert bytecode_cache.read(folder, "this") is None


def test_nothing_is_written_where_others_could_change_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    bytecode_cache.write(tmp_path, "this", CODE)
    assert list(tmp_path.iterdir()) == []


def test_the_compiler_needs_headers_and_does_not_look_for_them_elsewhere(tmp_path: Path) -> None:
    problem = headers_problem(tmp_path)
    assert problem is not None and "no kernel headers" in problem


def test_headers_that_others_could_have_written_are_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "kheaders"
    theirs.mkdir()
    theirs.chmod(0o777)
    kernel = tmp_path / "modules" / platform.release()
    kernel.mkdir(parents=True)
    (kernel / "build").symlink_to(theirs)
    problem = headers_problem(tmp_path / "modules")
    assert problem is not None and str(theirs) in problem and "not exclusively root's" in problem
