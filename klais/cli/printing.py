"""Output of the commands: only printable characters, whatever the data contains."""

import json
import os
from typing import Any

import click

from klais.text import escape


def say(*lines: str, err: bool = False) -> None:
    """Print lines of text. Line breaks within one are escaped, so that data cannot start a new line."""
    for line in lines:
        click.echo(escape(line), err=err)


def say_text(text: str, err: bool = False) -> None:
    """Print text of several lines, each escaped."""
    say(*text.split("\n"), err=err)


def say_part(text: str) -> None:
    """Print the beginning of a line."""
    click.echo(escape(text), nl=False)


def say_marked(mark: str, colour: str, line: str) -> None:
    """Print a line that begins with a coloured word."""
    click.echo(click.style(escape(mark), fg=colour) + escape(line))


def clear_screen() -> None:
    """Clear the terminal, if the output is one."""
    if os.environ.get("TERM", "dumb") != "dumb":
        click.clear()  # does nothing if the output is not a terminal


def say_json(value: Any, indent: int | None = None) -> None:
    """Print a JSON value in ASCII: control characters become JSON escapes."""
    click.echo(json.dumps(value, indent=indent))
