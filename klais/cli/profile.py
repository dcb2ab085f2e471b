"""``klais profile``: the systems that a user works with."""

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

    A profile contains the addresses of a system and your credentials: `klais --profile prod devices list`, or
    KLAIS_PROFILE=prod. While one is active, it is the only source of these settings; the environment and files do not
    count. Profiles are in ~/.config/klais/profiles.toml, to which only you may have write access, one table for each:

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
    """List the profiles."""
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
    """Print the settings of a profile."""
    found, problems = read_profile(name)
    if problems:
        raise ConfigError("\n".join(problems))
    values = {key: found[setting].value for key, setting in KEYS.items() if setting in found}
    if as_json:
        say_json(values)
    else:
        say(*(f"{key} = {value}" for key, value in values.items()))
