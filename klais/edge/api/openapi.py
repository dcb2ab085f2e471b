"""The OpenAPI 3.1 document of the edge's REST API, written by hand; a test holds the server to it."""

from typing import Any

from klais import __version__

MIN_RATE, MAX_RATE = 1, 1_000_000
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_BY_REASON = {"type": "object", "additionalProperties": _COUNT}


def _object(properties: dict[str, Any], closed: bool = False) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "object", "properties": properties, "required": list(properties)}
    return out | ({"additionalProperties": False} if closed else {})


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


_ERRORS = {
    "400": "The body is not well-formed JSON.",
    "401": "A token is set and the request does not carry it.",
    "404": "No such path.",
    "405": "The path does not know this method.",
    "413": "The body is larger than 4096 bytes.",
    "422": "The body is JSON, but not what is asked for, or out of range.",
    "429": "More than 100 requests a second from this address.",
    "503": "The set-point could not be written to Kafka, or no edge process answers yet.",
}


def _errors(*codes: str) -> dict[str, Any]:
    return {code: _json(_ERRORS[code], "Error") for code in codes}


_SCHEMAS = {
    "Error": _object(
        {
            "error": {"type": "string", "description": "What went wrong, for people."},
            "code": {"type": "string", "description": "The same for programs, from a fixed list."},
            "details": {"type": "object"},
        },
        closed=True,
    ),
    "Health": _object(
        {
            "status": {"enum": ["ok", "degraded"]},
            "problems": {"type": "array", "items": {"type": "string"}},
            "warnings": {"type": "array", "items": {"type": "string"}, "description": "Wrong, but frames get through."},
            "queue_depth": _COUNT | {"description": "Frames in the dam's queue, all workers together."},
            "rate_limit": _NUMBER | {"description": "Global rate in force (frames/s)."},
            "version": {"type": "string"},
            "uptime_secs": _NUMBER | {"minimum": 0},
            "edge_id": _COUNT,
            "workers": _COUNT | {"description": "Workers heard of in the last 3 seconds."},
        }
    ),
    "Stats": _object(
        {
            "dam": _object(
                {
                    "received": _COUNT,
                    "passed": _COUNT,
                    "queued": _COUNT,
                    "dropped": _COUNT,
                    "queue_depth": _COUNT,
                    "tokens": _NUMBER,
                    "dropped_by_reason": _BY_REASON,
                }
            ),
            "control": _object(
                {
                    "current_rate": _NUMBER,
                    "burst_probability": _NUMBER,
                    "anomaly_score": _NUMBER,
                    "pid_output": _NUMBER,
                    "anomaly_devices": _COUNT,
                    "controller": {"type": ["string", "null"], "description": "Id of the controller heard of, or null."},
                    "mode": {"enum": ["auto", "manual", "fixed"], "description": "Who sets the rate."},
                    "cut": _NUMBER | {"description": "Share of the rate that a burst to come takes away."},
                    "alert": {"type": "boolean", "description": "Whether a burst is very likely."},
                    "overrides": {"type": "array", "items": {"type": "object"}, "description": "What operators set."},
                }
            ),
            "edge": {"type": "object"},
            "workers": {"type": "object", "additionalProperties": {"type": "object"}},
            "senders": {"type": "object", "additionalProperties": {"type": "object"}, "description": "All, stale ones too."},
        }
    ),
    "ConfigRequest": _object({"new_rate": {"type": "integer", "minimum": MIN_RATE, "maximum": MAX_RATE}}, closed=True),
    "ConfigResponse": _object({"success": {"const": True}, "previous_rate": _NUMBER, "new_rate": {"type": "integer"}}),
}

_CONFIG = {
    "operationId": "setRate",
    "summary": "Set the global rate (frames/s) of the whole system, through the topic klais_control.",
    "security": [{}, {"token": []}],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ConfigRequest"}}},
    },
    "responses": {"200": _json("Written and acknowledged.", "ConfigResponse")}
    | _errors("400", "401", "413", "422", "429", "503"),
}


def _get(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "responses": responses | _errors("429")}}


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "KLAIS edge",
        "version": __version__,
        "license": {"name": "MIT", "identifier": "MIT"},
        "description": "Health, figures and set-point of a KLAIS system; dam and control figures are those of all workers.",
    },
    "paths": {
        "/health": _get(
            "health",
            "Whether frames get through.",
            {"200": _json("All is well.", "Health"), "503": _json("Degraded; problems say why.", "Health")},
        ),
        "/stats": _get(
            "stats",
            "Counters and gauges of the system and of this edge.",
            {"200": _json("Now.", "Stats")} | _errors("503"),
        ),
        "/metrics": _get(
            "metrics",
            "The same for Prometheus.",
            {"200": {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        ),
        "/openapi.json": _get(
            "openapi",
            "This document.",
            {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {"type": "object"}}}}},
        ),
        "/config": {"post": _CONFIG},
    },
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}
