"""Where things lie on disk, for every process (no numba here)."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Folder for things that can be made again (``KLAIS_CACHE_DIR``, else ``$XDG_CACHE_HOME/klais``)."""
    named = os.environ.get("KLAIS_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klais"
