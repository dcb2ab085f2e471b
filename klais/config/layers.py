"""Precedence of the places that set a value: flag > profile > environment > file of settings > default."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from klais.config import toml_file
from klais.config.env_file import read_env_lines
from klais.config.fields import FIELDS, PREFIX, SECRETS, variable
from klais.config.origins import Given
from klais.config.profiles import DISPLACED, read_profile
from klais.config.secret_file import read_secret
from klais.errors import ConfigError
from klais.system.paths import from_home
from klais.text import escape, near_names

# Read by tests and tools: not settings, but allowed names.
GIVEN_OPTIONS = "KLAIS_GIVEN_OPTIONS"
"""Names the variables, a,b, that an option or a profile of this process or its parent set: the file of
``KLAIS_ENV_FILE`` does not override them."""
ENV_EXTRA = ("KLAIS_REQUIRE", "KLAIS_FAULT_ROUNDS", "KLAIS_JIT", GIVEN_OPTIONS)
ENV_EXTRA_PREFIX = "KLAIS_TEST_"
NO_FILE = "none"
_FILES = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")


@dataclass(slots=True)
class Layers:
    """The merged values of all places, before they are checked.

    Attributes
    ----------
    given : dict of str to Given
        Setting -> the value with the highest precedence.
    problems : list of str
        Unknown names, and files that cannot be used.
    path : Path or None
        The file of settings that was read.
    """

    given: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    path: Path | None = None

    def values(self) -> dict[str, Any]:
        """The values without their origin."""
        return {name: one.value for name, one in self.given.items()}

    def label(self, name: str) -> str:
        """Name of a setting in messages, with the place of its value."""
        return self.given[name].label(name) if name in self.given else variable(name)

    def add_layer(self, read: Callable[[], tuple[Mapping[str, Given], list[str]]]) -> None:
        """Read a place with higher precedence and merge it; collect its problems."""
        try:
            layer, problems = read()
        except ConfigError as error:
            layer, problems = {}, str(error).splitlines()
        self.put(layer)
        self.problems += problems

    def put(self, layer: Mapping[str, Given]) -> None:
        """Merge the settings of a place with higher precedence. A file with a secret also replaces the secret, and a
        secret the file."""
        for secret in SECRETS:
            if secret in layer or f"{secret}_file" in layer:
                self.given.pop(secret, None)
                self.given.pop(f"{secret}_file", None)
        self.given.update(layer)

    def unreadable(self) -> list[str]:
        """Named files that cannot be read, a line each: said now, not at the first connection."""
        out = []
        for name in _FILES:
            path = from_home(str(self.given[name].value)) if name in self.given else None
            if path is not None and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                out.append(f"{self.label(name)}={clip(str(path))}: is not a readable file")
        return out

    def read_secrets(self, values: dict[str, Any]) -> list[str]:
        """Put the content of secret files into ``values``; return their problems, a line each."""
        out = []
        for name in SECRETS:
            file = values.get(f"{name}_file")
            if file is None:
                continue
            if name in values:
                out.append(f"{variable(name)} and {variable(name)}_FILE are both set: choose one of them")
                continue
            try:
                values[name] = read_secret(from_home(str(file)), self.label(f"{name}_file"))
            except ConfigError as error:
                out.append(escape(str(error)))
        return out


def gather(environ: Mapping[str, str] | None, overrides: Mapping[str, Any]) -> Layers:
    """Merge all places.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The variables; None = ``os.environ``, and only then the default settings files are searched.
    overrides : mapping
        Options of a command, by setting; None = not given.

    Raises
    ------
    klais.errors.ConfigError
        If the file in ``KLAIS_ENV_FILE`` cannot be used.
    """
    out = Layers()
    env = _variables(os.environ if environ is None else environ)
    out.problems += [_unknown(name) for name in sorted(env) if name.startswith(PREFIX) and not _known(name)]
    variables = _settings_of(env)
    for name, one in list(variables.items()):
        if problem := toml_file.impossible(str(one.value)):
            out.problems.append(f"{variables.pop(name).label(name)}: {problem}")
    named = variables.pop("config", None)
    out.path = _named(str(named.value)) if named else toml_file.find() if environ is None else None
    if out.path is not None:
        out.add_layer(partial(toml_file.read_settings, out.path))
    out.put(variables)
    if profile := variables.get("profile"):
        for name in DISPLACED:
            out.given.pop(name, None)
        out.add_layer(partial(read_profile, str(profile.value)))
    flags = {name: Given(value, "flag") for name, value in overrides.items() if value is not None}
    for name, one in list(flags.items()):
        if problem := toml_file.impossible(str(one.value)):
            out.problems.append(f"{flags.pop(name).label(name)}: {problem}")
    out.put(flags)
    if out.path is not None:
        out.given["config"] = Given(str(out.path.absolute()), named.source if named else "default")
    return out


def _named(text: str) -> Path | None:
    return None if text == NO_FILE else from_home(text)


def _variables(environ: Mapping[str, str]) -> dict[str, Given]:
    """The variables, replaced by those of the file in ``KLAIS_ENV_FILE``."""
    out = {name: Given(value, "env") for name, value in environ.items()}
    if named := environ.get(f"{PREFIX}ENV_FILE"):
        if problem := toml_file.impossible(named):
            raise ConfigError(f"{PREFIX}ENV_FILE: {problem}")
        path = from_home(named)
        lines = read_env_lines(path, frozenset(map(variable, SECRETS)))
        given = environ.get(GIVEN_OPTIONS, "").split(",")
        file = {name: Given(value, "env_file", f"{path}:{line}") for name, (value, line) in lines.items()}
        out |= {name: one for name, one in file.items() if name not in given}
    return out


def _settings_of(variables: Mapping[str, Given]) -> dict[str, Given]:
    """The settings of variables; an empty variable counts as not set."""
    return {name: variables[variable(name)] for name in FIELDS if _is_given(variables.get(variable(name)))}


def _is_given(one: Given | None) -> bool:
    return one is not None and one.value != ""


def _known(name: str) -> bool:
    return name in map(variable, FIELDS) or name in ENV_EXTRA or name.startswith(ENV_EXTRA_PREFIX)


def _unknown(name: str) -> str:
    near = near_names(name.removeprefix(PREFIX).upper(), [n.upper() for n in FIELDS], n=1, cutoff=0.6)
    hint = f": did you mean {PREFIX}{near[0]}?" if near else ": `klais config show` lists them all"
    return f"{escape(name)}: is not a setting of klais{hint}"


def clip(value: str) -> str:
    """A value for a message: escaped, at most 80 characters, in quotes where its ends could not be seen."""
    text = escape(value)
    return repr(text if len(text) <= 80 else text[:77] + "...") if text.strip() != text or not text else text[:80]
