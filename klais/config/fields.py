"""What the fields of the settings say of themselves: choices, ranges, secrets."""

import os
import types
import typing
from typing import Any, Literal

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from klais.config.settings import SettingsFields

PREFIX = "KLAIS_"
FIELDS: dict[str, FieldInfo] = SettingsFields.model_fields


def variable(name: str) -> str:
    """The variable of a setting: ``KLAIS_KAFKA_PORT`` of ``kafka_port``."""
    return PREFIX + name.upper()


def environ_without_settings() -> dict[str, str]:
    """This process's environment for a child that gets no settings, and so no secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def is_secret(name: str) -> bool:
    """Whether the field of that name holds a secret; ``<name>_file`` is a setting too then."""
    return SecretStr in members(FIELDS[name].annotation)


def range_of(field: FieldInfo) -> str:
    """Unit and range, or choices, of a field: ``1 to 65535 port``; empty where anything goes."""
    choices = _choices(field.annotation)
    if choices:
        return " | ".join(choices)
    if bool in members(field.annotation):
        return "true | false"
    unit = (field.json_schema_extra or {}).get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
    low = next((m.ge for m in field.metadata if getattr(m, "ge", None) is not None), None)
    high = next((m.le for m in field.metadata if getattr(m, "le", None) is not None), None)
    if low is None and high is None:
        least = next((m.min_length for m in field.metadata if getattr(m, "min_length", None)), None)
        return f"at least {least} characters" if least else ""
    return f"{digits(low)} to {digits(high)} {unit}".rstrip()


def digits(value: float | None) -> str:
    """A number as people write it."""
    if value is None:
        return "any"
    return str(int(value)) if float(value).is_integer() else repr(value)


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type itself."""
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    parts = typing.get_args(annotation) if union else (annotation,)
    return tuple(part.__origin__ if typing.get_origin(part) is typing.Annotated else part for part in parts)


def _choices(annotation: Any) -> list[str]:
    literals = [part for part in members(annotation) if typing.get_origin(part) is Literal]
    return [str(choice) for literal in literals for choice in typing.get_args(literal)]


SECRETS = tuple(name for name in FIELDS if is_secret(name))
