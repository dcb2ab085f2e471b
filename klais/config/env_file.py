"""A file of settings, ``KLAIS_NAME=value`` a line: read at the start, and again when a process is told to reload.

The same file may be systemd's ``EnvironmentFile=``. Its values win over the environment: that one is as it was when the
process started.
"""

from pathlib import Path

from klais.errors import ConfigError


def read_env_file(path: Path) -> dict[str, str]:
    """Variables of a file; blank lines and those that begin with ``#`` or ``;`` are comments, quotes around a value go.

    Raises
    ------
    klais.errors.ConfigError
        It cannot be read, or has lines that set nothing; every problem at once.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"KLAIS_ENV_FILE={path}: cannot be read: {error}") from None
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
    if problems:
        raise ConfigError("\n".join(problems))
    return out
