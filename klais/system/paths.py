"""The cache folder, whose content can be rebuilt, and paths from home. Imports nothing heavy: every process uses it."""

import os
from pathlib import Path


def cache_root(named: Path | None = None) -> Path:
    """Folder for jars and compiled kernels: ``named``, else ``KLAIS_CACHE_DIR``, else ``$XDG_CACHE_HOME/klais``.

    Parameters
    ----------
    named : Path, optional
        The setting ``cache_dir``, where settings are at hand.
    """
    if named is not None:
        return named
    from_env = os.environ.get("KLAIS_CACHE_DIR")
    if from_env:
        return from_home(from_env)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "klais"


def from_home(text: str) -> Path:
    """A path that may begin with ``~`` or ``~name``; as it stands where no such user exists (``Path.expanduser`` raises
    a RuntimeError then)."""
    return Path(os.path.expanduser(text))
