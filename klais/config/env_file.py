"""A file of settings with lines ``KLAIS_NAME=value``, read at the start and at each reload.

systemd can read the same file with ``EnvironmentFile=``. Its values take precedence over the environment of the
process, which cannot change after the start. python-dotenv parses it. Lines that systemd would read differently are
refused.
"""

import io
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from klais.config.secret_file import not_private
from klais.errors import ConfigError
from klais.system.private_files import not_ours

if TYPE_CHECKING:
    from dotenv.parser import Binding

MAX_BYTES = 256 << 10
_SEMICOLON = re.compile(r"(?m)^([ \t]*);")  # starts a comment for systemd, but not for dotenv


def read_env_lines(path: Path, secrets: Collection[str] = ()) -> dict[str, tuple[str, int]]:
    """Read the variables of a file, each with its line number.

    Lines that begin with ``#`` or ``;`` are comments. Values may be quoted.

    Parameters
    ----------
    path : Path
        The file. Only its owner (root or the user of this process) may have write access.
    secrets : collection of str
        Names of variables that hold secrets: a file that sets one of them must be private.

    Raises
    ------
    klais.errors.ConfigError
        If the file cannot be read, other users could write (or read) it, or lines are invalid; lists every problem.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1) if stat.S_ISREG(info.st_mode) else b""
        text = data.decode("utf-8-sig")  # as in klais.toml
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"KLAIS_ENV_FILE={path}: cannot be read: {error}") from None
    if not stat.S_ISREG(info.st_mode) or len(data) > MAX_BYTES:
        kind = f"is larger than {MAX_BYTES} bytes" if data else "is not a regular file"
        raise ConfigError(f"KLAIS_ENV_FILE={path}: {kind}")
    if problem := not_ours(info):
        raise ConfigError(f"KLAIS_ENV_FILE={path}: {problem}, so another user could change the settings: chmod go-w it")
    from dotenv.parser import parse_stream  # imported here: most processes have no such file

    out: dict[str, tuple[str, int]] = {}
    problems = []
    for binding in parse_stream(io.StringIO(_SEMICOLON.sub(r"\1#", text))):
        if problem := _problem(binding):
            problems.append(f"{path}:{binding.original.line}: {problem}")
        elif binding.key is not None:
            out[binding.key] = binding.value or "", binding.original.line
    held = sorted(name for name in out if name in secrets)
    if held and (problem := not_private(info)):
        problems.append(
            f"KLAIS_ENV_FILE={path}: it holds {held[0]}, and {problem}: let only the user that runs klais read it "
            f"(chown, chmod 600), or use {held[0]}_FILE"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return out


def read_env_file(path: Path, secrets: Collection[str] = ()) -> dict[str, str]:
    """As :func:`read_env_lines`, without line numbers."""
    return {name: value for name, (value, _) in read_env_lines(path, secrets).items()}


def _problem(binding: "Binding") -> str:
    """Why a line is invalid, or systemd would read it differently; empty if it is valid."""
    if binding.key is None and not binding.error:  # blank lines and comments
        return ""
    name, sign, raw = (part.strip() for part in binding.original.string.partition("="))
    if binding.error or not sign or not name.isidentifier():
        return "not NAME=value"
    if raw[:1] not in ("'", '"') and raw != binding.value:
        return "put a comment on its own line, and quote a value that contains #"
    return ""
