"""Bodies of requests: JSON validated by a pydantic model, with errors per field."""

import json
from typing import Any, ClassVar, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from klais.http.errors import HttpError, shown
from klais.http.query import may_be
from klais.system import shallow_json

MAX_PROBLEMS = 10
MAX_VALUE = 60  # characters of a value that an error repeats
_CODES = {
    "missing": "missing_field",
    "extra_forbidden": "unknown_field",
    "model_type": "not_an_object",
    "int_type": "not_an_integer",
    "int_from_float": "not_an_integer",
    "float_type": "not_a_number",
    "finite_number": "not_a_number",
    "bool_type": "not_a_boolean",
    "string_type": "not_text",
    "greater_than_equal": "out_of_range",
    "less_than_equal": "out_of_range",
    "greater_than": "out_of_range",
    "less_than": "out_of_range",
}


class Body(BaseModel):
    """Base of request bodies: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    max_bytes: ClassVar[int] = 4096  # a longer body is refused, before it is read to its end
    secret: ClassVar[frozenset[str]] = frozenset()  # fields whose value no error repeats


T = TypeVar("T", bound=Body)


async def read_body(request: web.Request, model: type[T]) -> T:
    """Read the body of a request.

    Raises
    ------
    HttpError
        400 if it is not JSON, 413 if it is longer than ``model.most_bytes``, 422 if ``model`` refuses it; ``details``
        lists up to ten problems by field.
    """
    bounded = request.clone(client_max_size=model.max_bytes)  # whatever the application allows: Faust's has its own
    try:
        data = await bounded.read()
    except web.HTTPRequestEntityTooLarge:
        text = f"the body is longer than {model.max_bytes} bytes"
        raise HttpError(413, "request_entity_too_large", text, maximum=model.max_bytes) from None
    return parse_body(data, model)


def parse_body(data: bytes, model: type[T]) -> T:
    """Parse the bytes of a body (see :func:`read_body`)."""
    try:
        value = shallow_json.loads(data)
    except ValueError as error:
        raise HttpError(400, "malformed_json", f"the body is not JSON: {error}") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise of_validation(error, model) from None


def of_validation(error: ValidationError, model: type[BaseModel]) -> HttpError:
    """422 with the code of the first problem; ``details`` has the fields and their ranges."""
    problems: list[dict[str, Any]] = []
    for found in error.errors(include_url=False)[:MAX_PROBLEMS]:
        name = shown(".".join(str(part) for part in found["loc"]))
        code = _CODES.get(found["type"], "invalid")
        problem = {"field": name, "code": code, "error": f"{name or 'the body'}: {_words(found, model)}"}
        problems.append(problem | _value(found, model) | may_be(model, name))
    first = problems[0]
    return HttpError(422, first["code"], first["error"], problems=problems)


def _value(found: Any, model: type[BaseModel]) -> dict[str, str]:
    """The value that was refused, as JSON and not long, where there is one and it is no secret."""
    secret = model.secret if issubclass(model, Body) else frozenset()
    if not found["loc"] or found["type"] in ("missing", "extra_forbidden") or not secret.isdisjoint(found["loc"]):
        return {}
    # orjson takes no whole number of more than 64 bits
    return {"value": shown(json.dumps(found["input"], ensure_ascii=False))[:MAX_VALUE]}


def _words(found: Any, model: type[BaseModel]) -> str:
    match found["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return f"is not a field of this body; valid fields: {', '.join(model.model_fields)}"
        case "model_type":
            return "must be an object"
        case "int_type" | "int_from_float":
            return "must be a whole number"
        case _:
            text = str(found.get("ctx", {}).get("error", found["msg"])).removeprefix("Input ").rstrip(".")
            value = _value(found, model).get("value")
            return text[:1].lower() + text[1:] + (f", not {value}" if value is not None else "")
