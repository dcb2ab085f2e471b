"""What commands print: one line each, every character of it printable, whatever a device or an operator put into it."""

import json
from typing import Any

import click

from klais.text import escape


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people. A line break inside of one is escaped too: nothing can begin a line of its own."""
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


def say_json(value: Any, indent: int | None = None) -> None:
    """Print one JSON value in ASCII: whatever is in its text reaches a terminal as an escape of JSON."""
    click.echo(json.dumps(value, indent=indent))
