"""Query parameters: validated by a pydantic model, from which the OpenAPI document lists them."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from klais.http.errors import HttpError, shown

MAX_DIGITS = 18


class Query(BaseModel):
    """Base of query parameters; used directly for pages without any."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _digits(value: Any) -> Any:
    """Convert digits to a number; other forms that Python accepts (``+5``, ``1_000``, digits of other scripts) are
    refused.
    """
    if not isinstance(value, str):
        return value
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise PydanticCustomError("whole_number", "must be a whole number")
    return int(value)


Whole = Annotated[int, BeforeValidator(_digits)]

Q = TypeVar("Q", bound=Query)


def read_query(given: Mapping[str, str], model: type[Q]) -> Q:
    """Read the parameters of a request.

    Raises
    ------
    HttpError
        400 ``bad_parameter`` with name, value and valid values; also if one is repeated or unknown.
    """
    names: set[str] = set()
    for name, _ in given.items():  # the items of a multidict repeat names
        if name in names:
            raise _bad(name, given, "is given more than once")
        names.add(name)
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
    name = str(found["loc"][0]) if found["loc"] else "query"
    if found["type"] == "extra_forbidden":
        raise _bad(
            name, given, f"is not a parameter of this page, which has: {', '.join(model.model_fields) or 'none'}"
        )
    allowed = may_be(model, name)
    raise _bad(name, given, _words(found, allowed), **allowed)


def parameters(model: type[Query]) -> list[dict[str, Any]]:
    """The parameters for the OpenAPI document."""
    found = model.model_json_schema()
    out = []
    for name, schema in found.get("properties", {}).items():
        text = schema.pop("description", "")
        schema.pop("title", None)
        out.append({"name": name, "in": "query", "required": False, "description": text, "schema": schema})
    return out


def _bad(name: str, given: Mapping[str, str], problem: str, **details: Any) -> HttpError:
    text = f"{shown(name)}: {problem}"
    return HttpError(400, "bad_parameter", text, parameter=shown(name), value=shown(given.get(name, "")), **details)


def _words(found: Any, allowed: Mapping[str, Any]) -> str:
    context = found.get("ctx", {})
    match found["type"]:
        case "greater_than_equal" | "less_than_equal" | "whole_number":
            highest = f" to {allowed['maximum']}" if "maximum" in allowed else ""
            return f"must be a whole number from {allowed.get('minimum', 0)}{highest}"
        case "literal_error":
            return f"must be one of {context['expected']}".replace("'", "").replace(" or ", ", ")
        case "value_error":
            return str(context["error"])
        case _:
            return str(found["msg"])


def may_be(model: type[BaseModel], name: str) -> dict[str, Any]:
    """Range or choices of a parameter or field, as the schema has them."""
    schema = model.model_json_schema()["properties"].get(name, {})
    names = {"minimum": "minimum", "exclusiveMinimum": "above", "maximum": "maximum", "enum": "choices"}
    names |= {"minLength": "min_length", "maxLength": "max_length", "minItems": "min_items", "maxItems": "max_items"}
    parts = [schema, *schema.get("anyOf", [])]
    return {ours: part[theirs] for part in parts for theirs, ours in names.items() if theirs in part}
