"""Files that belong to another user, real or simulated."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

NOBODY = 65_534


def giver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A function that gives a path to another user. Without root, it makes this process appear to be another user
    instead.
    """

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

    return give
