"""Common parts of the OpenAPI documents of both servers: errors, schemas of models, the token."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from klais.http.errors import ErrorBody

_SCHEMA = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is not well-formed: no Host header, an invalid parameter, a body that is not JSON.",
    "401": "The request needs a token and does not have a valid one.",
    "403": "A web page of another origin made a browser send this.",
    "404": "The requested item does not exist.",
    "409": "Another process has it, or changes it at the same time; the error says which.",
    "413": "The body is too large.",
    "415": "The body is not declared as application/json.",
    "421": "The Host header is not a name of this server: see KLAIS_API_HOSTS.",
    "422": "The body is JSON, but a field is invalid or out of range.",
    "429": "More than 100 requests per second from one address.",
    "503": "A required component (Kafka, an edge process, a lane) does not respond now.",
}


def json_body(schema: str) -> dict[str, Any]:
    """The content of a JSON body."""
    return {"application/json": {"schema": {"$ref": _SCHEMA.format(model=schema)}}}


def answer(description: str, schema: str) -> dict[str, Any]:
    """A response with a JSON body."""
    return {"description": description, "content": json_body(schema)}


def errors(*codes: str) -> dict[str, Any]:
    """Error responses, by status."""
    return {code: answer(_ERRORS[code], "Error") for code in codes}


def schemas(requests: Sequence[type[BaseModel]], answers: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """JSON schemas of models and of their parts, by name."""
    models: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = []
    models.extend((model, "validation") for model in requests)
    models.extend((model, "serialization") for model in answers)
    models.append((ErrorBody, "serialization"))
    found: dict[str, Any] = models_json_schema(models, ref_template=_SCHEMA)[1]["$defs"]
    found["Error"] = found.pop("ErrorBody")
    return found


def document(
    title: str, version: str, description: str, paths: dict[str, Any], schemas: dict[str, Any]
) -> dict[str, Any]:
    """The whole document."""
    licence = {"name": "MIT", "identifier": "MIT"}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "license": licence, "description": description},
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
