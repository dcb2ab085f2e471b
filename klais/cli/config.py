"""``klais config``: shows and checks the settings."""

from dataclasses import asdict

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.printing import say, say_json
from klais.config.cross_checks import warnings
from klais.config.load import Row, describe, load


@click.group(cls=SuggestingGroup)
def config() -> None:
    """Show or check the configuration.

    All settings are environment variables KLAIS_*; an empty variable counts as not set.
    """


@config.command()
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON array of name, value, default, range, description, source."
)
@click.option("--set", "only_set", is_flag=True, help="Only the settings that the environment names.")
def show(as_json: bool, only_set: bool) -> None:
    """List every setting: value in force, unit and range, meaning. Secrets are masked.

    \b
    Examples:
      klais config show
      KLAIS_PARTITIONS=8 klais config show --set
    """
    rows = [row for row in describe(load()) if row.source == "env" or not only_set]
    if as_json:
        say_json([asdict(row) for row in rows], indent=2)
    else:
        say(*(line for row in rows for line in _block(row)))


@config.command()
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"ok": true, "warnings": [...]}.')
def check(as_json: bool) -> None:
    """Check the configuration: exit code 0 when it can be used, 2 with every problem listed when not.

    Warnings name settings that work but are rarely intended; they do not change the exit code.
    """
    settings = load()
    notes = warnings(settings)
    if as_json:
        say_json({"ok": True, "warnings": notes})
        return
    for note in notes:
        say(f"warning: {note}")
    named = sum(row.source == "env" for row in describe(settings))
    say(f"ok: {named} settings from the environment, the rest at their defaults")


def _block(row: Row) -> list[str]:
    mark = "*" if row.source == "env" else " "
    limits = f"  [{row.range}]" if row.range else ""
    default = "" if row.source == "default" else f"  (default {_value(row.default)})"
    return [f"{mark} {row.name}={_value(row.value)}{default}", f"      {row.description}{limits}"]


def _value(text: str | None) -> str:
    return "(not set)" if text is None else text or '""'
