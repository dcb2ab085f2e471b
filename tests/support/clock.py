"""A wall clock that a test steps while processes run: a preloaded library shifts it."""

import os
import subprocess
from pathlib import Path

SHIFT_C = Path(__file__).parent / "clock_shift.c"


def build_shift(folder: Path) -> Path:
    """Compile the library that shifts the wall clock of a process by the seconds in a file."""
    library = folder / "clock_shift.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SHIFT_C, "-ldl"], check=True)
    return library


class WallClock:
    """Environment whose processes have a wall clock that a test can step while they run."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self._set = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(file)}
        self.step(0)

    def step(self, offset_s: int) -> None:
        """Set the clock's offset in seconds."""
        new = self._file.with_suffix(".new")
        new.write_text(str(offset_s))
        new.replace(self._file)

    def __enter__(self) -> "WallClock":
        os.environ.update(self._set)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._set:
            del os.environ[name]
