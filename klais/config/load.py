"""The configuration: ``KLAIS_*`` from the environment, frozen, typed, read once.

Every field states unit and range. :func:`load` reports all problems together and refuses unknown ``KLAIS_`` names.
``Settings(topic_prefix="x", ...)`` built directly takes what it is given and the defaults, never the environment.
"""

import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import EnvSettingsSource

from klais.config.cross_checks import cross_problems
from klais.config.env_file import read_env_file
from klais.config.secret_file import read_secret
from klais.config.settings import SettingsFields
from klais.errors import ConfigError
from klais.text import escape

PREFIX = "KLAIS_"
# Read by tests and tools: not settings, but allowed names.
ENV_EXTRA = ("KLAIS_REQUIRE", "KLAIS_FAULT_ROUNDS")
ENV_EXTRA_PREFIX = "KLAIS_TEST_"
_MASK = "***"
_FILES = ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile")
_WRONG = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "literal_error": "is none of the choices",
    "string_pattern_mismatch": "has characters that are not allowed, or too many",
    "too_short": "is too short",
}


class Settings(SettingsFields):
    """The settings in force: fields that are right one by one and fit together."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        problems = cross_problems(self)
        if problems:
            text = "; ".join(problem.text for problem in problems)
            raise PydanticCustomError("settings", "{text}", {"text": text, "problems": problems})
        return self


@dataclass(frozen=True, slots=True)
class Row:
    """One setting for people: its name in the environment, values as text (secrets masked), and what it means."""

    name: str
    value: str | None
    default: str | None
    range: str
    description: str
    source: Literal["env", "default"]


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment (``os.environ`` unless another is given); an empty variable counts as not set.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The variables to read.
    overrides : Any
        Fields that win over the environment (options of a command); None leaves a field as it is.

    Raises
    ------
    klais.errors.ConfigError
        With every problem at once, one line each: name, value (secrets masked), what is wrong, unit and range.

    Examples
    --------
    >>> load({"KLAIS_PARTITIONS": "8"}, kafka_port=9999).partitions
    8
    """
    env = with_file(os.environ if environ is None else environ)
    given: dict[str, Any] = _given(env) | {name: value for name, value in overrides.items() if value is not None}
    lines = [_unknown(name) for name in sorted(env) if name.startswith(PREFIX) and not _known(name)]
    lines += _unreadable(given)
    lines += _read_secrets(given)
    values = dict(given)
    bad: set[str] = set()
    while True:
        try:
            settings = Settings(**values)
            break
        except ValidationError as error:
            found = error.errors(include_url=False)
        lines += [line for detail in found for line in _lines(detail, given, bad)]
        worse = {str(detail["loc"][0]) for detail in found if detail["loc"]}
        if not worse:  # only fields that do not fit together, all reported
            break
        bad |= worse
        values = {name: value for name, value in values.items() if name not in worse}
    if lines:
        raise ConfigError("\n".join(lines))
    return settings


def with_file(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables, with those of the file that ``KLAIS_ENV_FILE`` names, if any, in their place.

    Raises
    ------
    klais.errors.ConfigError
        The file cannot be used.
    """
    name = environ.get(f"{PREFIX}ENV_FILE")
    return {**environ, **read_env_file(Path(name).expanduser(), frozenset(_SECRETS))} if name else environ


def environ_of(settings: Settings) -> dict[str, str]:
    """The variables that make :func:`load` give ``settings`` again, secrets included: for the environment of a child.

    Examples
    --------
    >>> environ_of(Settings(partitions=8))
    {'KLAIS_PARTITIONS': '8'}
    """
    out = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "env_file":  # the child gets the values; a file would override them
            continue
        if is_secret(name) and getattr(settings, f"{name}_file") is not None:  # the child reads the file itself
            continue
        # A rate that was set and happens to be the default is not the same as none: it switches the controller off.
        if value is not None and (value != field.default or name in settings.model_fields_set):
            out[PREFIX + name.upper()] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return out


def describe(settings: Settings, environ: Mapping[str, str] | None = None) -> list[Row]:
    """All settings in the order of their declaration; ``source`` says whether the environment names them."""
    given = _given(with_file(os.environ if environ is None else environ))
    rows = []
    for name, field in Settings.model_fields.items():
        row = Row(
            name=PREFIX + name.upper(),
            value=_shown(getattr(settings, name)),
            default=_shown(field.default),
            range=range_of(field),
            description=field.description or "",
            source="env" if name in given else "default",
        )
        rows.append(row)
    return rows


def range_of(field: FieldInfo) -> str:
    """Unit and range, or choices, of a field: ``1 to 65535 port``; empty where anything goes."""
    choices = _choices(field.annotation)
    if choices:
        return " | ".join(choices)
    if bool in _members(field.annotation):
        return "true | false"
    unit = (field.json_schema_extra or {}).get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
    low = next((m.ge for m in field.metadata if getattr(m, "ge", None) is not None), None)
    high = next((m.le for m in field.metadata if getattr(m, "le", None) is not None), None)
    if low is None and high is None:
        least = next((m.min_length for m in field.metadata if getattr(m, "min_length", None)), None)
        return f"at least {least} characters" if least else ""
    return f"{_digits(low)} to {_digits(high)} {unit}".rstrip()


def is_secret(name: str) -> bool:
    """Whether the field of that name holds a secret; ``<name>_file`` is a setting too then."""
    return SecretStr in _members(Settings.model_fields[name].annotation)


def _given(env: Mapping[str, str]) -> dict[str, str]:
    exact = {name: value for name, value in env.items() if name.startswith(PREFIX) and name == name.upper()}
    source = EnvSettingsSource(Settings, case_sensitive=False, env_ignore_empty=True)
    source.env_vars = {name.lower(): value for name, value in exact.items() if value != ""}
    return source()


def _known(name: str) -> bool:
    fields = {PREFIX + field.upper() for field in Settings.model_fields}
    return name in fields or name in ENV_EXTRA or name.startswith(ENV_EXTRA_PREFIX)


def _unknown(name: str) -> str:
    fields = [field.upper() for field in Settings.model_fields]
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), fields, n=1, cutoff=0.6)
    hint = f": did you mean {PREFIX}{near[0]}?" if near else ": `klais config show` lists them all"
    return f"{escape(name)}: is not a setting of klais{hint}"


def _lines(detail: ErrorDetails, given: Mapping[str, Any], bad: set[str]) -> list[str]:
    if detail["type"] == "settings":
        problems = detail["ctx"]["problems"]
        return [problem.text for problem in problems if not bad.intersection(problem.fields)]
    name = str(detail["loc"][0])
    field = Settings.model_fields[name]
    value = _MASK if is_secret(name) else _clip(str(given[name]))
    kind = detail["type"]
    wrong = str(detail["ctx"]["error"]) if kind == "value_error" else _WRONG.get(kind, detail["msg"])
    pattern = detail.get("ctx", {}).get("pattern") if kind == "string_pattern_mismatch" else None
    allowed = f"must match {pattern}" if pattern else range_of(field)
    return [f"{PREFIX}{name.upper()}={value}: {wrong} ({'; '.join(filter(None, (allowed, field.description)))})"]


def _unreadable(given: Mapping[str, Any]) -> list[str]:
    """Named files that cannot be read: report them now, not at the first connection."""
    out = []
    for name in _FILES:
        path = Path(given[name]).expanduser() if name in given else None
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            out.append(f"{PREFIX}{name.upper()}={_clip(str(path))}: is not a readable file")
    return out


def _read_secrets(given: dict[str, Any]) -> list[str]:
    """Put the content of secret files into ``given``; return their problems, a line each."""
    out = []
    for name in filter(is_secret, Settings.model_fields):
        file, setting = given.get(f"{name}_file"), PREFIX + name.upper()
        if file is None:
            continue
        if name in given:
            out.append(f"{setting} and {setting}_FILE are both set: choose one of them")
            continue
        try:
            given[name] = read_secret(Path(file).expanduser(), f"{setting}_FILE")
        except ConfigError as error:
            out.append(escape(str(error)))
    return out


def _clip(value: str) -> str:
    text = escape(value)
    return repr(text if len(text) <= 80 else text[:77] + "...") if text.strip() != text or not text else text[:80]


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, bool):
        return str(value).lower()
    return _digits(value) if isinstance(value, int | float) else str(value)


def _digits(value: float | None) -> str:
    if value is None:
        return "any"
    return str(int(value)) if float(value).is_integer() else repr(value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    parts = typing.get_args(annotation) if union else (annotation,)
    return tuple(part.__origin__ if typing.get_origin(part) is typing.Annotated else part for part in parts)


def _choices(annotation: Any) -> list[str]:
    literals = [part for part in _members(annotation) if typing.get_origin(part) is Literal]
    return [str(choice) for literal in literals for choice in typing.get_args(literal)]


_SECRETS = tuple(PREFIX + name.upper() for name in Settings.model_fields if is_secret(name))
