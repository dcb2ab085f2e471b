"""Settings for commands, imported on first use: importing pydantic takes most of the time of a short command."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klais.config.load import Settings


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
    """The settings; see :func:`klais.config.load.load`."""
    from klais.config import load as loading

    return loading.load(environ, **overrides)
