"""The configuration: from flags, a profile, the environment and a file, frozen, typed, read once.

Every field states unit and range. :func:`load` reports all problems together and refuses unknown names.
``Settings(topic_prefix="x", ...)`` uses only its arguments and the defaults, never the environment.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from klais.config.cross_checks import cross_problems
from klais.config.fields import FIELDS, PREFIX, digits, is_secret, range_of, variable
from klais.config.layers import ENV_EXTRA, ENV_EXTRA_PREFIX, GIVEN_OPTIONS, NO_FILE, Layers, clip, gather
from klais.config.origins import Source
from klais.config.profiles import DISPLACED
from klais.config.secret import Secret
from klais.config.settings import SettingsFields
from klais.config.tables import has_table, place_of
from klais.errors import ConfigError

_MASK = "***"
_WRONG = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "string_type": "must be text in quotes",
    "path_type": "must be text in quotes",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "literal_error": "is not one of the choices",
    "string_pattern_mismatch": "has invalid or too many characters",
    "too_short": "is too short",
}


class _Labels(dict[str, str]):
    """Names of the settings in messages. All instances are equal, so that settings with equal values are equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Labels)

    __hash__ = None  # type: ignore[assignment]


class Settings(SettingsFields, BaseModel):
    """The settings in force: fields that are right one by one and fit together.

    Raises
    ------
    pydantic.ValidationError
        When built directly with values that do not fit (inputs are left out of its text: they may be secrets).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    _from_file: frozenset[str] = PrivateAttr(default=frozenset())
    _above_env_file: frozenset[str] = PrivateAttr(default=frozenset())
    _labels: Mapping[str, str] = PrivateAttr(default_factory=_Labels)

    @classmethod
    def of(cls, layers: Layers, values: Mapping[str, Any]) -> Self:
        """Create the settings of ``values``, with a record of those that come from the file of settings."""
        made = cls(**values)
        made._from_file = frozenset(name for name, one in layers.given.items() if one.source == "file")
        above = {name for name, one in layers.given.items() if one.source in ("flag", "profile")}
        made._above_env_file = frozenset(above if made.profile is None else above | DISPLACED)
        made._labels = _Labels({name: layers.label(name) for name in layers.given})
        return made

    @property
    def from_file(self) -> frozenset[str]:
        """The settings that ``klais.toml`` sets and no higher place overrides: a reload reads them again."""
        return self._from_file

    @property
    def above_env_file(self) -> frozenset[str]:
        """The settings of options and of a profile: the file of ``KLAIS_ENV_FILE`` does not override them."""
        return self._above_env_file

    @property
    def labels(self) -> Mapping[str, str]:
        """How messages refer to the given settings."""
        return self._labels

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        problems = cross_problems(self)
        if problems:
            text = "; ".join(problem.text for problem in problems)
            raise PydanticCustomError("settings", "{text}", {"text": text, "problems": problems})
        return self


@dataclass(frozen=True, slots=True)
class Row:
    """One setting for display.

    Attributes
    ----------
    name : str
        Its variable.
    key : str or None
        Table and key in ``klais.toml``: ``[kafka] port``; None if it cannot be set there.
    value, default : str or None
        As text, secrets masked; None = not set.
    range, description : str
        Valid values and meaning.
    source : str
        The place that sets the value.
    place : str
        File and line of a value from a file.
    """

    name: str
    key: str | None
    value: str | None
    default: str | None
    range: str
    description: str
    source: Source
    place: str


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Load settings from flags, a profile, the environment and a file, in this order of precedence.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The variables to read instead of ``os.environ``. ``./klais.toml`` and ``/etc/klais/klais.toml`` are searched
        only without this argument. An empty variable counts as not set.
    overrides : Any
        Fields that override all other places (options of a command); None leaves a field unchanged.

    Raises
    ------
    klais.errors.ConfigError
        Lists every problem, one line each: name or file, line and key, value (secrets masked), problem, unit and range.

    Examples
    --------
    >>> load({"KLAIS_PARTITIONS": "8"}, kafka_port=9999).partitions
    8
    """
    layers = gather(environ, overrides)
    given = layers.values()
    lines = layers.problems + layers.unreadable() + layers.read_secrets(given)
    values = dict(given)
    bad: set[str] = set()
    while True:
        try:
            settings = Settings.of(layers, values)
            break
        except ValidationError as error:
            found = error.errors(include_url=False)
        lines += [line for detail in found for line in _lines(detail, layers, bad)]
        worse = {str(detail["loc"][0]) for detail in found if detail["loc"]}
        if not worse:  # only conflicts between fields, which are all reported
            break
        bad |= worse
        values = {name: value for name, value in values.items() if name not in worse}
    if lines:
        raise ConfigError("\n".join(lines))
    return settings


def environ_of(settings: Settings, reads_file: bool = False) -> dict[str, str]:
    """Variables from which :func:`load` restores ``settings``, including secrets, for the environment of a child.

    Parameters
    ----------
    settings : Settings
        The settings of the child.
    reads_file : bool
        The child reads the file of settings itself, now and at each reload, so that values can change there. Not with
        a profile, which overrides some of the file's settings.

    Examples
    --------
    >>> environ_of(Settings(partitions=8))
    {'KLAIS_PARTITIONS': '8', 'KLAIS_CONFIG': 'none'}
    """
    # Without the profile, more settings of the file would be in force.
    reads_file = reads_file and settings.config is not None and settings.profile is None
    again = settings.from_file if reads_file else frozenset()
    out = {}
    for name, field in FIELDS.items():
        value = getattr(settings, name)
        if (
            name in ("env_file", "config", "profile") or name in again
        ):  # the child gets the values, and a file could override them
            continue
        if is_secret(name) and getattr(settings, f"{name}_file") is not None:  # the child reads the file itself
            continue
        # An explicit rate equal to the default differs from no rate: it disables the controller.
        if value is not None and (value != field.default or name in settings.model_fields_set):
            out[variable(name)] = value.get_secret_value() if isinstance(value, Secret) else str(value)
    if settings.profile is not None:
        out[variable("profile")] = ""
    return out | {variable("config"): str(settings.config) if reads_file else NO_FILE}


def child_environ(settings: Settings, reads_files: bool = False) -> dict[str, str]:
    """The environment of a child with these settings: that of this process, without other values of settings.

    A variable that a profile displaces would have effect in the child, which has no profile: as the login of another
    system. An option of this process would not, if the file of ``KLAIS_ENV_FILE`` has its setting too.

    Parameters
    ----------
    settings : Settings
        The settings of the child.
    reads_files : bool
        The child reads ``klais.toml`` and the file of ``KLAIS_ENV_FILE`` itself, now and at each reload.
    """
    out = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) or name in ENV_EXTRA or name.startswith(ENV_EXTRA_PREFIX)
    }
    out |= environ_of(settings, reads_files)
    if reads_files and settings.env_file is not None:
        above = {name for name in out.get(GIVEN_OPTIONS, "").split(",") if name}
        above |= set(map(variable, settings.above_env_file))
        out |= {variable("env_file"): str(settings.env_file), GIVEN_OPTIONS: ",".join(sorted(above))}
    return out


def describe(settings: Settings, environ: Mapping[str, str] | None = None) -> list[Row]:
    """All settings in the order of their declaration, each with its source."""
    given = gather(environ, {}).given
    rows = []
    for name, field in FIELDS.items():
        one = given.get(name)
        row = Row(
            name=variable(name),
            key=place_of(name) if has_table(name) else None,
            value=_shown(getattr(settings, name)),
            default=_shown(field.default),
            range=range_of(field),
            description=field.description,
            source=one.source if one else "default",
            place=one.place if one else "",
        )
        rows.append(row)
    return rows


def _lines(detail: ErrorDetails, layers: Layers, bad: set[str]) -> list[str]:
    if detail["type"] == "settings":
        problems = detail["ctx"]["problems"]
        return [problem.text for problem in problems if not bad.intersection(problem.fields)]
    name = str(detail["loc"][0])
    field = FIELDS[name]
    value = _MASK if is_secret(name) else clip(str(layers.given[name].value))
    kind = detail["type"]
    wrong = str(detail["ctx"]["error"]) if kind == "value_error" else _WRONG.get(kind, detail["msg"])
    pattern = detail.get("ctx", {}).get("pattern") if kind == "string_pattern_mismatch" else None
    allowed = f"must match {pattern}" if pattern else range_of(field)
    return [f"{layers.label(name)}={value}: {wrong} ({'; '.join(filter(None, (allowed, field.description)))})"]


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, Secret):
        return _MASK
    if isinstance(value, bool):
        return str(value).lower()
    return digits(value) if isinstance(value, int | float) else str(value)
