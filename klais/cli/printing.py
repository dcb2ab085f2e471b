"""Output of the commands: printable characters only, whatever a device or an operator put into the data."""

import json
import os
from typing import Any

import click

from klais.text import escape


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people. Line breaks within one are escaped, so that data cannot start a line of its own."""
    for line in lines:
        click.echo(escape(line), err=err)


def say_text(text: str, err: bool = False) -> None:
    """Print text of several lines, each of them escaped."""
    say(*text.split("\n"), err=err)


def say_part(text: str) -> None:
    """Print the beginning of a line."""
    click.echo(escape(text), nl=False)


def say_marked(mark: str, colour: str, line: str) -> None:
    """Print a line that begins with a coloured word."""
    click.echo(click.style(escape(mark), fg=colour) + escape(line))


def clear_screen() -> None:
    """Empty a terminal that can be emptied."""
    if os.environ.get("TERM", "dumb") != "dumb":
        click.clear()  # does nothing where the output is no terminal


def say_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON value in ASCII: a terminal gets control characters as JSON escapes."""
    click.echo(json.dumps(value, indent=indent))
