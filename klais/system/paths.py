"""The cache folder, whose content can be rebuilt, and paths from home. Imports nothing heavy: every process uses it."""

import os
from pathlib import Path


def cache_root(named: Path | None = None) -> Path:
    """Folder for jars and compiled kernels: ``named``, else ``KLAIS_CACHE_DIR``, else ``$XDG_CACHE_HOME/klais``.

    Parameters
    ----------
    named : Path, optional
        The setting ``cache_dir``, if settings are loaded.
    """
    if named is not None:
        return named
    from_env = os.environ.get("KLAIS_CACHE_DIR")
    if from_env:
        return from_home(from_env)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klais"


def from_home(text: str) -> Path:
    """Expand a path that may begin with ``~`` or ``~name``; unchanged if no such user exists (``Path.expanduser`` would
    raise a RuntimeError)."""
    return Path(os.path.expanduser(text))
