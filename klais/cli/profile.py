"""``klais profile``: the systems that one person works with."""

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.output import FORM, Column, writer
from klais.cli.printing import say, say_json
from klais.config.profiles import KEYS, names, profiles_file, read_profile
from klais.errors import ConfigError

_KEYS = ("profile", "bootstrap", "worker_url", "edge_url")


@click.group(cls=SuggestingGroup)
def profile() -> None:
    """List the systems that you work with.

    A profile says where a system is and who you are there: `klais --profile prod devices list`, or KLAIS_PROFILE=prod.
    While one is in force, all of that comes from it and nothing of it from the environment or a file. Profiles stand
    in ~/.config/klais/profiles.toml, which only you may write, one table for each:

    \b
      [prod]
      bootstrap = "kafka-1:9093,kafka-2:9093"
      security_protocol = "SASL_SSL"
      sasl_username = "operator"
      sasl_password_file = "/home/me/.config/klais/prod.password"
      worker_url = "https://klais.example"
      edge_url = "http://edge-1:8080"
      token_file = "/home/me/.config/klais/prod.token"
    """


@profile.command("list")
@FORM
def list_(form: str) -> None:
    """List the profiles that there are."""
    rows = []
    for name in names():
        found, _ = read_profile(name)
        rows.append({"profile": name} | {key: found[KEYS[key]].value for key in _KEYS if KEYS.get(key) in found})
    if form == "json":
        say_json({"file": str(profiles_file()), "profiles": rows})
    elif not rows and form == "table":
        say(f"no profiles: {profiles_file()} does not exist or has no table (see `klais profile --help`)")
    else:
        writer(form, [Column(key) for key in _KEYS], _KEYS).write(rows)


@profile.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: key -> value.")
def show(name: str, as_json: bool) -> None:
    """Print what a profile sets."""
    found, problems = read_profile(name)
    if problems:
        raise ConfigError("\n".join(problems))
    values = {key: found[setting].value for key, setting in KEYS.items() if setting in found}
    if as_json:
        say_json(values)
    else:
        say(*(f"{key} = {value}" for key, value in values.items()))
