"""Manual pages from the commands, the settings and the glossary: ``python -m klais.cli.man FOLDER``.

``FOLDER`` gets ``man1`` (``klais`` and one page for each of its commands), ``man5`` (``klais.toml``) and ``man7``
(``klais``, the glossary). man finds ``share/man`` next to a ``bin`` folder of ``PATH`` automatically.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from klais import __version__
from klais.cli.main import COMMANDS, main
from klais.config.fields import is_secret
from klais.config.load import Row, Settings, describe
from klais.config.tables import BEGINNINGS, MEANINGS

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"
_TERM = re.compile(r"^\*\*(.+?)\*\*(.*)$", re.DOTALL)
_CODE = re.compile(r"``([^`]+)``|`([^`]+)`")


def pages() -> dict[str, str]:
    """Every page by file name, as ``man1/klais-edge.1``."""
    context = click.Context(main, info_name="klais", **main.context_settings)
    out = {"man1/klais.1": _command_page(context, main)}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        out[f"man1/klais-{name}.1"] = _command_page(below, command)
    out["man5/klais.toml.5"] = settings_page()
    if GLOSSARY.exists():
        out["man7/klais.7"] = words_page(GLOSSARY.read_text(encoding="utf-8"))
    return out


def settings_page() -> str:
    """``klais.toml(5)``: each table with its keys."""
    rows = describe(Settings(), {})
    lines = [*_head("klais.toml", 5), ".SH NAME", "klais.toml \\- settings of KLAIS", ".SH DESCRIPTION"]
    lines += [
        _text(
            "A file of settings in TOML, with a table for each part of KLAIS. It is the file given by "
            "`klais --config FILE` or KLAIS_CONFIG, else klais.toml in the current folder, else klais.toml in "
            "/etc/klais. An option of a command, a profile and an environment variable take precedence. Root or the "
            "user that runs klais must own it, and no other user may have write access. It holds no secrets: keys "
            "that end in _file name files that do. `klais config init` writes one."
        )
    ]
    for table in BEGINNINGS:
        lines += [f".SH [{_escape(table)}]", _text(MEANINGS[table][0].upper() + MEANINGS[table][1:] + ".")]
        lines += [line for row in rows if _stands_in(row, table) for line in _setting(row)]
    return _page([*lines, *_also("klais(1)", "klais(7)", "klais\\-config(1)")])


def words_page(glossary: str) -> str:
    """``klais(7)``: the terms of docs/glossary.md."""
    lines = [*_head("klais", 7), ".SH NAME", "klais \\- terms and concepts of KLAIS"]
    for paragraph in re.split(r"\n\n|\n(?=\*\*)", glossary)[1:]:
        plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", paragraph.strip())
        plain = re.sub(r"(?<!\*)\*(\w+)\*(?!\*)", r"\1", plain)
        if plain.startswith("## "):
            lines += [f".SH {_escape(plain[3:].upper())}"]
        elif term := _TERM.match(plain):
            lines += [".TP", f"\\fB{_escape(term[1])}\\fR{_escape(term[2].partition(':')[0])}"]
            lines += [_text(term[2].partition(":")[2])]
        else:
            lines += [".SH DESCRIPTION" if ".SH DESCRIPTION" not in lines else ".PP", _text(plain)]
    return _page([*lines, *_also("klais(1)", "klais.toml(5)")])


def _command_page(context: click.Context, command: click.Command) -> str:
    name = context.command_path.replace(" ", "-")
    first = command.get_short_help_str(200).rstrip(".")
    lines = [*_head(name, 1), ".SH NAME", f"{_escape(name)} \\- {_escape(first)}", ".SH SYNOPSIS"]
    lines += [_usage(context, command), ".SH DESCRIPTION", *_help(command), *_options(context, command, ".SH OPTIONS")]
    if command is main:
        lines += [".SH COMMANDS"]
        for below, (_, _, text) in COMMANDS.items():
            lines += [".TP", f"\\fBklais\\-{_escape(below)}\\fR(1)", _text(text)]
    elif isinstance(command, click.Group):
        for below in command.list_commands(context):
            lines += _section(context, command, below)
    return _page([*lines, *_also("klais(1)", "klais.toml(5)", "klais(7)")])


def _section(context: click.Context, group: click.Group, name: str) -> Iterator[str]:
    """A command of a group, as a section of the group's page."""
    command = group.get_command(context, name)
    if command is None or command.hidden:
        return
    below = click.Context(command, info_name=name, parent=context)
    yield f".SH {_escape(below.command_path.upper())}"
    yield _usage(below, command)
    yield ".PP"
    yield from _help(command)
    yield from _options(below, command, ".PP")


def _usage(context: click.Context, command: click.Command) -> str:
    return f"\\fB{_escape(context.command_path)}\\fR {_escape(' '.join(command.collect_usage_pieces(context)))}"


def _help(command: click.Command) -> Iterator[str]:
    """The paragraphs of a help text; those that begin with ``\\b`` keep their lines."""
    for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *(_line(line) for line in paragraph.splitlines()[1:]), ".fi")
        else:
            yield _text(paragraph)


def _options(context: click.Context, command: click.Command, head: str) -> Iterator[str]:
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    if records:
        yield head
    for names, text in records:
        yield from (".TP", f"\\fB{_escape(names)}\\fR", _text(text))


def _stands_in(row: Row, table: str) -> bool:
    secret = is_secret(row.name.removeprefix("KLAIS_").lower())
    return row.key is not None and row.key.startswith(f"[{table}] ") and not secret


def _setting(row: Row) -> list[str]:
    key = (row.key or "").partition("] ")[2]
    limits = f" ({row.range})" if row.range else ""
    default = f" Default: {row.default}." if row.default else ""
    return [".TP", f"\\fB{_escape(key)}\\fR", _text(f"{row.description}{limits}.{default} Variable: {row.name}.")]


def _head(name: str, section: int) -> list[str]:
    return [f'.TH "{_escape(name.upper())}" "{section}" "" "klais {__version__}" "KLAIS"', ".ad l", ".nh"]


def _also(*names: str) -> list[str]:
    return [".SH SEE ALSO", ", ".join(names)]


def _page(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """One paragraph; text in backquotes becomes bold."""
    flat = " ".join(text.split())
    parts = _CODE.split(flat)  # text, ``code``, `code`, text, ...
    out = [_escape(parts[0])]
    for double, single, plain in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out += [f"\\fB{_escape(double or single)}\\fR", _escape(plain)]
    return _guard("".join(out))


def _line(line: str) -> str:
    return _guard(_escape(line.rstrip()))


def _guard(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _escape(text: str) -> str:
    """Text escaped for troff; long choices and lists may break after a bar or a comma."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"([|,])(?=\S)", r"\1\\:", plain)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m klais.cli.man FOLDER")
    for file, content in pages().items():
        target = Path(sys.argv[1]) / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
