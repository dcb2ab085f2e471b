"""``klais.toml`` as text, for ``klais config init`` and ``klais config diff``."""

import json
from collections.abc import Collection, Iterable
from textwrap import wrap

from klais.config.fields import FIELDS, SECRETS, members, variable
from klais.config.load import Row
from klais.config.tables import BEGINNINGS, MEANINGS, NAMES, key_of, table_of

WIDTH = 100


def commented(rows: Iterable[Row]) -> str:
    """A file with every setting of ``rows``: its meaning, and its default as a comment. Secrets as files."""
    by_variable = {row.name: row for row in rows}
    out = ["# Settings of KLAIS. Remove the # before a key to set it; the value shown is the default.", _ORDER]
    for table in BEGINNINGS:
        out += ["", f"# {MEANINGS[table]}", f"[{table}]"]
        for name in (name for (of, _), name in NAMES.items() if of == table and name not in SECRETS):
            row = by_variable.get(variable(name))
            if row is not None:
                out += ["", *_meaning(row), f"# {_pair(name, row.default)}"]
    return "\n".join([*out, ""])


def settings_as_toml(rows: Iterable[Row]) -> str:
    """The values of ``rows`` as a file; values that cannot be in a file become comments."""
    by_table: dict[str, list[str]] = {}
    notes = []
    for row in rows:
        if row.key is None:
            notes.append(f"# {row.name}={row.value}  (only in the environment)")
            continue
        name = row.name.removeprefix("KLAIS_").lower()
        line = (
            f"# {key_of(name)} is set: {key_of(name)}_file can name a file that contains it" if name in SECRETS else ""
        )
        by_table.setdefault(table_of(name), []).append(line or _pair(name, row.value))
    tables = ["\n".join([f"[{table}]", *by_table[table]]) for table in BEGINNINGS if table in by_table]
    return "\n\n".join([*notes, *tables])


def _meaning(row: Row) -> list[str]:
    limits = f" ({row.range})" if row.range else ""
    return [f"# {line}" for line in wrap(row.description + limits, WIDTH - 2, break_on_hyphens=False)]


def _pair(name: str, value: str | None) -> str:
    return f"{key_of(name)} = {_toml(name, value)}"


def _toml(name: str, value: str | None) -> str:
    """A value in TOML; not set is the empty string."""
    kinds: Collection[object] = members(FIELDS[name].annotation)
    if value and (bool in kinds or int in kinds or float in kinds):
        return value
    return json.dumps(value or "", ensure_ascii=False).replace("\x7f", "\\u007f")


_ORDER = (
    "# Order: option of a command > profile > environment (KLAIS_*) > this file > default. `klais config show` lists\n"
    "# the source of each value, `klais config check` all problems. Empty text means not set."
)
