"""A file of settings, ``KLAIS_NAME=value`` a line: read at the start, and again when a process is told to reload.

The same file may be systemd's ``EnvironmentFile=``. Its values win over the environment: that one is as it was when the
process started.
"""

import os
from collections.abc import Collection
from pathlib import Path

from klais.config.secret_file import not_ours, not_private
from klais.errors import ConfigError


def read_env_file(path: Path, secrets: Collection[str] = ()) -> dict[str, str]:
    """Variables of a file; blank lines and those that begin with ``#`` or ``;`` are comments, quotes around a value go.

    Parameters
    ----------
    path : Path
        The file. Nobody but its owner, us or root, may write to it.
    secrets : collection of str
        Names of variables that hold secrets: a file with one of them nobody else may read either.

    Raises
    ------
    klais.errors.ConfigError
        It cannot be read, others could write (or read) it, or it has lines that set nothing; every problem at once.
    """
    try:
        with open(path, encoding="utf-8") as file:
            info = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"KLAIS_ENV_FILE={path}: cannot be read: {error}") from None
    if problem := not_ours(info):
        raise ConfigError(f"KLAIS_ENV_FILE={path}: {problem}, and whoever writes to it chooses the settings: chmod go-w it")
    out, problems = {}, []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name.isidentifier():
            problems.append(f"{path}:{number}: not NAME=value")
            continue
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        out[name] = value
    held = sorted(name for name in out if name in secrets)
    if held and (problem := not_private(info)):
        problems.append(f"KLAIS_ENV_FILE={path}: it holds {held[0]}, and {problem}: chmod 600 it, or use {held[0]}_FILE")
    if problems:
        raise ConfigError("\n".join(problems))
    return out
