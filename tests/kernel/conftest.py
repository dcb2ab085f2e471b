"""What the kernel tests share."""

import shutil
from pathlib import Path

import pytest

from tests.support.needs import need_missing
from tests.support.xdp_native import Native


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """The filter's headers compiled for user space."""
    if shutil.which("cc") is None:
        need_missing("kernel", "no C compiler (cc)")
    folder: Path = tmp_path_factory.mktemp("native")
    return Native(folder)
