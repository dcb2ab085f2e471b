"""Settings for commands that only query a server: the same values as :func:`klais.config.load.load`, without pydantic.

Importing pydantic and building the model of all settings is two thirds of such a command's time. This module parses
only plain values (``8080``, ``2.5``, ``true``, one of the choices), and checks them with the same functions. It passes
everything else, valid or not, to :func:`load`, which has all error messages.
"""

import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from klais.config.checked import After
from klais.config.cross_checks import cross_problems
from klais.config.fields import FIELDS, FieldSpec, choices_of, members
from klais.config.layers import Layers, gather
from klais.config.secret import Secret
from klais.config.settings import SettingsFields

_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


class _Unsure(Exception):
    """A value that only pydantic can validate."""


class PlainSettings(SettingsFields):
    """Settings that were read without pydantic.

    Parameters
    ----------
    layers : Layers
        The sources of the values.
    values : mapping
        The validated values, by setting; all others have their defaults.
    """

    def __init__(self, layers: Layers, values: Mapping[str, Any]) -> None:
        self.__dict__.update({name: field.default for name, field in FIELDS.items()} | dict(values))
        self._given = set(values)
        self._labels = {name: layers.label(name) for name in layers.given}

    @property
    def model_fields_set(self) -> set[str]:
        """Names of the settings that were given."""
        return self._given

    @property
    def labels(self) -> Mapping[str, str]:
        """How messages refer to the given settings."""
        return self._labels


def load_quick(environ: Mapping[str, str] | None = None, **overrides: Any) -> SettingsFields:
    """The settings in force, with the same values and errors as :func:`klais.config.load.load`.

    Examples
    --------
    >>> load_quick({"KLAIS_WEB_PORT": "6067"}).web_port
    6067
    """
    layers = gather(environ, overrides)
    given = layers.values()
    if not layers.problems and not layers.unreadable() and not layers.read_secrets(given):
        try:
            found = PlainSettings(layers, {name: _value(FIELDS[name], value) for name, value in given.items()})
        except (_Unsure, ValueError):
            pass
        else:
            if not cross_problems(found):
                return found
    from klais.config.load import load

    return load(environ, **overrides)


def _value(field: FieldSpec, given: Any) -> Any:
    """The value of a setting.

    Raises
    ------
    _Unsure, ValueError
        If the value is not in a plain form, or invalid.
    """
    value = _typed(field, given)
    if field.low is not None and field.high is not None and not field.low <= value <= field.high:  # NaN neither
        raise _Unsure
    if field.pattern is not None and not re.fullmatch(field.pattern, value):
        raise _Unsure
    for check in _checks(field.annotation):
        value = check(value)
    return value


def _typed(field: FieldSpec, given: Any) -> Any:
    """The value in the setting's type."""
    if isinstance(given, Path):
        given = str(given)
    if choices := choices_of(field.annotation):
        if type(given) is str and given in choices:
            return given
        raise _Unsure
    kinds, form = members(field.annotation), type(given)
    if form is str and (read := next((read for kind, read in _OF_TEXT.items() if kind in kinds), None)):
        return read(given)
    if form is bool and bool in kinds:
        return given
    if form in (int, float) and float in kinds:
        return float(given)
    if form is int and int in kinds:
        return given
    raise _Unsure


def _checks(annotation: Any) -> list[Callable[[Any], Any]]:
    """The checks in an annotation ``Annotated[str, After(f)]``, or in such a part of a union."""
    parts = (annotation, *typing.get_args(annotation))
    return [each.check for part in parts for each in getattr(part, "__metadata__", ()) if isinstance(each, After)]


def _whole(given: str) -> int:
    if not _WHOLE.fullmatch(given):
        raise _Unsure
    return int(given)


def _decimal(given: str) -> float:
    if not _DECIMAL.fullmatch(given):
        raise _Unsure
    return float(given)


def _bool(given: str) -> bool:
    if given not in ("true", "false"):
        raise _Unsure
    return given == "true"


_OF_TEXT: dict[type, Callable[[str], Any]] = {
    bool: _bool,
    int: _whole,
    float: _decimal,
    str: str,
    Path: Path,
    Secret: Secret,
}
