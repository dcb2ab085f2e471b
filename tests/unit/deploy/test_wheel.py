"""The wheel with compiled kernels: what it changes in pyproject.toml, and that each library is its manifest's."""

import hashlib
import json
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy.wheel import ROOT, WheelError, check, without_numba
from klais.jit.library import LIBRARY, MANIFEST


def test_only_numba_becomes_optional_and_libraries_become_files_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    before, after = tomllib.loads(text), tomllib.loads(without_numba(text))
    (numba,) = after["project"]["optional-dependencies"].pop("jit")
    assert set(before["project"]["dependencies"]) == {numba, *after["project"].pop("dependencies")}
    data = after["tool"]["setuptools"]["package-data"]
    assert data["klais"].pop(0) == "jit/compiled/**/*.so"
    del before["project"]["dependencies"]
    assert after == before


def test_a_pyproject_of_another_form_is_refused() -> None:
    with pytest.raises(WheelError, match="pyproject"):
        without_numba("[project]\n")


def test_a_library_that_is_not_its_manifests_is_found(tmp_path: Path) -> None:
    def wheel(name: str, code: bytes, count: int = 1) -> Path:
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            for n in range(count):
                digest = hashlib.sha256(b"code").hexdigest()
                archive.writestr(f"klais/jit/compiled/digest/{n}/{MANIFEST}", json.dumps({"sha256": digest}))
                archive.writestr(f"klais/jit/compiled/digest/{n}/{LIBRARY}", code)
        return path

    check(wheel("good.whl", b"code", 2), ["a", "b"])
    with pytest.raises(WheelError, match=r"changed\.whl: the library"):
        check(wheel("changed.whl", b"c0de"), ["a"])
    with pytest.raises(WheelError, match="has 1 libraries, not 2"):
        check(wheel("few.whl", b"code"), ["a", "b"])
