"""Files of settings in TOML: ``klais.toml`` with one table per part, and the profiles of a user.

Only root or the user of this process may have write access to such a file, because the settings decide where data is
sent. Secrets are not allowed in it, only the names of files that hold them.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klais.config.fields import FIELDS, is_secret, members
from klais.config.origins import Given, Source
from klais.config.tables import BEGINNINGS, NAMES, place_of
from klais.errors import ConfigError
from klais.system.private_files import not_ours
from klais.text import escape, near_names

SEARCHED = (Path("klais.toml"), Path("/etc/klais/klais.toml"))
MAX_BYTES = 256 << 10
MAX_TEXT_CHARS = 4096  # maximum characters of a value, as of a path
MAX_LEVELS = 64
_QUOTED, _COMMENT, _BETWEEN_KEYS = (
    re.compile(r""" "[^"\n]*"|'[^'\n]*' """.strip()),
    re.compile("#.*"),
    re.compile(r"[=\n,{}\[\]]"),
)
_TABLE = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_."' -]+?)\s*=""")
_LONG_TEXT = re.compile("\"\"\"|'''")


def find() -> Path | None:
    """The default file: ``./klais.toml``, else ``/etc/klais/klais.toml``.

    One in a folder that this user cannot search counts as found, so that reading it fails: without it the settings
    would silently be other ones than those of the service.
    """
    return next((path for path in SEARCHED if _may_be_there(path)), None)


def _may_be_there(path: Path) -> bool:
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Read a file's tables, and its text.

    Raises
    ------
    klais.errors.ConfigError
        If it cannot be read, another user could have written it, or it is not TOML; names the line.
    """
    try:
        link = os.lstat(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            info = os.fstat(fd)
            data = os.read(fd, MAX_BYTES + 1) if stat.S_ISREG(info.st_mode) else b""
        finally:
            os.close(fd)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise ConfigError(f"{path}: {why}. Use `--config FILE` for another file, `--config none` for none") from None
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"{path}: is not a regular file")
    if problem := not_ours(info) or (not_ours(link) if stat.S_ISLNK(link.st_mode) and _foreign(link) else ""):
        raise ConfigError(
            f"{path}: {problem}, so another user could change the settings: chown it to root or to the user that runs "
            "klais, and chmod go-w it"
        )
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES} bytes")
    import tomllib  # saves 10 ms at a start without such a file

    try:
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
        if _has_long_key(text):
            raise ConfigError(f"{path}: a key has more than {MAX_LEVELS} parts")
        return tomllib.loads(text), text
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{path}: its values are nested too deeply") from None
    except ValueError as error:  # not only TOMLDecodeError: a number with very many digits raises ValueError
        line = re.search(r"at line (\d+)", str(error))
        at = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(escape(f"{at}: is not TOML: {error}")) from None


def _has_long_key(text: str) -> bool:
    """Whether a key has too many parts: the time of tomllib grows with their square, up to seconds."""
    bare = _COMMENT.sub("", _QUOTED.sub("k", text))
    return any(part.count(".") >= MAX_LEVELS for part in _BETWEEN_KEYS.split(bare))


def read_settings(path: Path) -> tuple[dict[str, Given], list[str]]:
    """The settings of a ``klais.toml``, and its problems: unknown tables and keys, secrets, impossible values.

    Raises
    ------
    klais.errors.ConfigError
        See :func:`read_toml`.
    """
    tables, text = read_toml(path)
    lines = lines_of(text)
    out, problems = {}, []
    for table, content in tables.items():
        at = f"{path}:{lines.get((table, ''), lines.get(('', table), 1))}"
        if table not in BEGINNINGS:
            problems.append(f"{at}: {escape(_unknown_table(table))}")
            continue
        if not isinstance(content, dict):
            problems.append(f"{at}: {table} is a table: write [{table}] on its own line, and its keys below")
            continue
        for key, value in content.items():
            at = f"{path}:{lines.get((table, key), lines.get((table, ''), 1))}"
            name = NAMES.get((table, key))
            if problem := _unknown_key(table, key) if name is None else refused(name, value):
                problems.append(escape(f"{at}: [{table}] {key}: {problem}"))
            elif name is not None and value != "":
                out[name] = Given(value, "file", at, place_of(name))
    return out, problems


def read_keys(path: Path, table: str, names: Mapping[str, str], source: Source) -> tuple[dict[str, Given], list[str]]:
    """As :func:`read_settings` for one table with its own keys (``names``: key -> setting)."""
    tables, text = read_toml(path)
    lines = lines_of(text)
    content = tables.get(table)
    if not isinstance(content, dict):
        known = ", ".join(sorted(name for name, value in tables.items() if isinstance(value, dict))) or "none"
        raise ConfigError(escape(f"{path}: has no [{table}]; it has {known}"))
    out, problems = {}, []
    for key, value in content.items():
        at = f"{path}:{lines.get((table, key), lines.get((table, ''), 1))}"
        name = names.get(key)
        near = near_names(key, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        if problem := f"is not a key of it: {hint}" if name is None else refused(name, value):
            problems.append(escape(f"{at}: [{table}] {key}: {problem}"))
        elif name is not None and value != "":
            out[name] = Given(value, source, at, f"[{table}] {key}")
    return out, problems


def refused(name: str, value: Any) -> str:
    """Why a value cannot be in a file, whichever setting it is for; empty if it can."""
    if is_secret(name):
        return f"secrets are not allowed in this file: put it into a file of mode 0600 and set {name}_file to that file"
    kinds = members(FIELDS[name].annotation)
    if isinstance(value, bool) and bool not in kinds:
        return f"{str(value).lower()} is not a valid value"
    if not isinstance(value, str | int | float):
        return "must be text in quotes, a number, true or false"
    if isinstance(value, str) and (problem := impossible(value)):
        return problem
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits is not a valid value"
    return ""


def impossible(text: str) -> str:
    """Why a text cannot be the value of any setting; empty if it can."""
    if len(text) > MAX_TEXT_CHARS:
        return f"is longer than {MAX_TEXT_CHARS} characters"
    try:
        text.encode()
    except UnicodeEncodeError:  # reports and records are JSON, which cannot show it
        return "is not UTF-8 text"
    return "has a NUL character" if "\0" in text else ""


def lines_of(text: str) -> dict[tuple[str, str], int]:
    """(table, key) -> line of a TOML text; key "" = the table's head, table "" = keys before the first table."""
    out: dict[tuple[str, str], int] = {}
    table, inside = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        marks = _LONG_TEXT.findall(line)
        if inside:
            inside = "" if inside in marks else inside
            continue
        if head := _TABLE.match(line):
            table = _bare(head[1])
            out.setdefault((table, ""), number)
        elif key := _KEY.match(line):
            first, dot, rest = _bare(key[1]).partition(".")
            out.setdefault((first, _bare(rest)) if dot and not table else (table, _bare(key[1])), number)
        inside = marks[0] if len(marks) % 2 else ""
    return out


def _bare(key: str) -> str:
    return key.strip().strip("\"'")


def _foreign(info: os.stat_result) -> bool:
    return info.st_uid not in (0, os.geteuid())


def _unknown_table(table: str) -> str:
    near = near_names(table, BEGINNINGS, n=1, cutoff=0.5)
    keys = [name for name in (table, table.lower().removeprefix("klais_")) if name in FIELDS and name in NAMES.values()]
    if keys:
        return f"{table}: a setting must be in a table, this one as {place_of(keys[0])}"
    return f"[{table}]: is not a table of it: " + (
        f"did you mean [{near[0]}]?" if near else f"valid tables: {', '.join(BEGINNINGS)}"
    )


def _unknown_key(table: str, key: str) -> str:
    """A hint at the intended key."""
    plain = key.lower().removeprefix("klais_")
    for name in (plain, f"{table}_{plain}"):
        if name in NAMES.values():
            return f"must be {place_of(name)}"
    here = [known for known_table, known in NAMES if known_table == table]
    if near := near_names(plain, here, n=1, cutoff=0.6):
        return f"is not a setting of klais: did you mean {near[0]}?"
    near = [name for (_, known), name in NAMES.items() if known == plain]
    near = near or near_names(plain, list(NAMES.values()), n=1, cutoff=0.6)
    if near:
        return f"is not a setting of klais: did you mean {place_of(near[0])}?"
    return f"is not a setting of klais: [{table}] has {', '.join(here)}"
