"""``klais config``: shows, writes and checks the settings."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from klais.cli.errors import EXIT_CONFIG
from klais.cli.groups import SuggestingGroup
from klais.cli.printing import say, say_json, say_text
from klais.cli.views import URL, WorkerViews
from klais.config.cross_checks import warnings
from klais.config.fields import variable
from klais.config.load import Row, Settings, describe, load
from klais.config.write import commented, settings_as_toml
from klais.errors import ConfigError

_SOURCES = {"env": "from the environment", "flag": "from an option"}


@click.group(cls=SuggestingGroup)
def config() -> None:
    """Show, write or check the configuration.

    Order: option of a command > profile > environment (KLAIS_*) > file > default. The file is the one that --config or
    KLAIS_CONFIG names, else ./klais.toml, else /etc/klais/klais.toml. An empty variable counts as not set.
    """


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array: name, value, default, source, place, ...")
@click.option("--only-set", is_flag=True, help="Only settings without their default.")
def show(as_json: bool, only_set: bool) -> None:
    """List every setting: value in force with its source, unit and range, meaning. Secrets are masked.

    \b
    Examples:
      klais config show
      KLAIS_PARTITIONS=8 klais config show --only-set
    """
    rows = [row for row in describe(load()) if row.source != "default" or not only_set]
    if as_json:
        say_json([asdict(row) for row in rows], indent=2)
    else:
        say(*(line for row in rows for line in _block(row)))


@config.command()
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"ok": ..., "problems", "warnings"}.')
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check the configuration: exit code 0 if it is valid, else 2 with a list of all problems.

    Warnings name settings that work but are rarely intended; they do not change the exit code.
    """
    try:
        settings = load()
    except ConfigError as error:
        if not as_json:
            raise
        say_json({"ok": False, "problems": str(error).splitlines(), "warnings": []})
        ctx.exit(EXIT_CONFIG)
    notes = warnings(settings)
    if as_json:
        say_json({"ok": True, "problems": [], "warnings": notes})
        return
    for note in notes:
        say(f"warning: {note}")
    sources = [row.source for row in describe(settings)]
    read = f"{sources.count('file')} settings from {settings.config}, " if settings.config else ""
    named = sum(sources.count(source) for source in ("env", "env_file", "profile"))
    say(f"ok: {read}{named} settings from the environment, the rest at their defaults")


@config.command()
@click.argument("path", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="klais.toml")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(path: Path, force: bool) -> None:
    """Write a file with every setting as a comment: default, unit and range, meaning.

    The default of PATH is klais.toml; - prints the file.

    \b
    Examples:
      klais config init
      klais config init - | less
      sudo klais config init /etc/klais/klais.toml
    """
    text = commented(describe(Settings(), {}))
    if str(path) == "-":
        say_text(text.rstrip("\n"))
        return
    try:
        with open(path, "w" if force else "x", encoding="utf-8", opener=_for_all_to_read) as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} already exists: replace it with `--force`, or give another file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    say(f"wrote {path}; check it with: klais --config {path} config check")


@config.command()
@click.option("--running", is_flag=True, help="Compare with the settings of a running worker instead of the defaults.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@URL
def diff(running: bool, as_json: bool, url: str | None) -> None:
    """Print the differences from the defaults, in the form of klais.toml. Secrets are masked.

    With --running it prints the effect of a restart: settings whose values differ from those of a running worker, one
    per line, and whether a reload of the edge (SIGHUP) is enough. Secrets are not compared.

    \b
    Examples:
      klais config diff
      KLAIS_ENV_FILE=/etc/klais/edge.env klais config diff > klais.toml
      klais --config new.toml config diff --running
    """
    if url is not None and not running:
        raise click.UsageError("--url needs --running")
    if running:
        changes = changes_of(describe(load()), WorkerViews.of(url).get("/api/v1/settings")["settings"])
        if as_json:
            say_json(changes)
            return
        for row in changes:
            say(f"{row['name']}: {_value(row['running'])} -> {_value(row['here'])}  ({row['needs']})")
        if not changes:
            say("no differences from the settings of the running worker")
        return
    rows = [row for row in describe(load()) if row.value != row.default and row.name not in _READ_FROM]
    if as_json:
        say_json([asdict(row) for row in rows], indent=2)
    elif rows:
        say_text(settings_as_toml(rows))


def changes_of(here: list[Row], running: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    """Settings with different values in a running process: ``name, running, here, needs``.

    Settings that only one version has are omitted, as are those that name the source of a configuration.
    """
    from klais.edge.signals import RELOADABLE

    values = {row["name"]: row["value"] for row in running}
    reloadable = {variable(name) for name in RELOADABLE}
    return [
        {
            "name": row.name,
            "running": values[row.name],
            "here": row.value,
            "needs": "a reload of the edge, a restart of workers" if row.name in reloadable else "a restart",
        }
        for row in here
        if row.name in values and row.value != values[row.name] and row.name not in _READ_FROM
    ]


def _for_all_to_read(path: str, flags: int) -> int:
    return os.open(path, flags, 0o644)  # a file with write access for others would be refused: ignore the umask


_READ_FROM = ("KLAIS_CONFIG", "KLAIS_ENV_FILE", "KLAIS_PROFILE")


def _block(row: Row) -> list[str]:
    mark = " " if row.source == "default" else "*"
    limits = f"  [{row.range}]" if row.range else ""
    source = row.place or _SOURCES.get(row.source, row.source)
    default = "" if row.source == "default" else f"  (default {_value(row.default)}; {source})"
    return [f"{mark} {row.name}={_value(row.value)}{default}", f"      {row.description}{limits}"]


def _value(text: str | None) -> str:
    return "(not set)" if text is None else text or '""'
