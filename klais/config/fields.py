"""What the fields of the settings say of themselves: types, choices, ranges, secrets."""

import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from klais.config.secret import Secret
from klais.config.settings import SettingsFields

PREFIX = "KLAIS_"


class FieldSpec:
    """One setting as it is declared.

    Attributes
    ----------
    annotation : Any
        Its type, with the checks of it.
    default : Any
        Its value if none is given.
    description : str
        What it means.
    """

    __slots__ = ("_metadata", "annotation", "default", "description")

    def __init__(self, annotation: Any, default: Any, metadata: Mapping[str, Any]) -> None:
        self.annotation, self.default, self._metadata = annotation, default, metadata
        self.description: str = metadata["description"]

    @property
    def low(self) -> float | None:
        """Least number."""
        return self._metadata.get("ge")

    @property
    def high(self) -> float | None:
        """Largest number."""
        return self._metadata.get("le")

    @property
    def unit(self) -> str:
        """Unit of a number; empty for one without."""
        return str(self._metadata.get("json_schema_extra", {}).get("unit", ""))

    @property
    def pattern(self) -> str | None:
        """Regular expression that a text matches."""
        return self._metadata.get("pattern")

    @property
    def note(self) -> str:
        """What a range does not say."""
        return str(self._metadata.get("json_schema_extra", {}).get("note", ""))


def _declared() -> dict[str, FieldSpec]:
    held = {name: SettingsFields.__dict__[name] for name in SettingsFields.__annotations__}
    return {
        name: FieldSpec(SettingsFields.__annotations__[name], one.default, one.metadata) for name, one in held.items()
    }


FIELDS = _declared()


def variable(name: str) -> str:
    """The environment variable of a setting: ``KLAIS_KAFKA_PORT`` for ``kafka_port``."""
    return PREFIX + name.upper()


def environ_without_settings() -> dict[str, str]:
    """This process's environment without settings and secrets, for a child process."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def is_secret(name: str) -> bool:
    """Whether the field of that name holds a secret; ``<name>_file`` is a setting too then."""
    return Secret in members(FIELDS[name].annotation)


def range_of(field: FieldSpec) -> str:
    """Unit and range, or choices, of a field: ``1 to 65535 port``; empty where anything goes."""
    if choices := choices_of(field.annotation):
        return " | ".join(choices)
    if bool in members(field.annotation):
        return "true | false"
    if field.low is None and field.high is None:
        return field.note
    return f"{digits(field.low)} to {digits(field.high)} {field.unit}".rstrip()


def digits(value: float | None) -> str:
    """Format a number for display."""
    if value is None:
        return "any"
    return str(int(value)) if float(value).is_integer() else repr(value)


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    parts = typing.get_args(annotation) if union else (annotation,)
    return tuple(part.__origin__ if typing.get_origin(part) is typing.Annotated else part for part in parts)


def choices_of(annotation: Any) -> list[str]:
    """The words that a setting may be; none where it may be anything of its type."""
    literals = [part for part in members(annotation) if typing.get_origin(part) is Literal]
    return [str(choice) for literal in literals for choice in typing.get_args(literal)]


SECRETS = tuple(name for name in FIELDS if is_secret(name))
