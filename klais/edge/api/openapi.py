"""The OpenAPI 3.1 document of the edge's REST API, generated from its models; a test checks the server against it."""

from typing import Any

from klais import __version__
from klais.edge.api.models import ConfigRequest, ConfigResponse, Health, Live, Ready, Stats
from klais.edge.api.tap import PATH, EdgeTapQuery
from klais.http.openapi import answer, document, errors, json_body, schemas
from klais.http.tap import tap_path

_READ = ("400", "401", "403", "421", "429")


def _get(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "responses": responses | errors(*_READ)}}


_CONFIG = {
    "operationId": "setRate",
    "summary": "Set the global rate (frames/s) of the whole system, through the topic klais_control.",
    "description": "It overrides the controller. The end (until_ms) of an existing override is kept.",
    "requestBody": {"required": True, "content": json_body("ConfigRequest")},
    "responses": {"200": answer("Written and acknowledged.", "ConfigResponse")}
    | errors(*_READ, "409", "413", "415", "422", "503"),
}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_ANY = {"application/json": {"schema": {"type": "object"}}}

DOCUMENT: dict[str, Any] = document(
    title="KLAIS edge",
    version=__version__,
    description="Health, figures and set-point of a KLAIS system; dam and control figures are sums over all workers.",
    paths={
        "/livez": _get(
            "livez",
            "Whether the process works. Needs no token, and does not depend on Kafka. Restart the process on 503.",
            {"200": answer("The loop turns.", "Live"), "503": answer("It hangs.", "Live")},
        ),
        "/readyz": _get(
            "readyz",
            "Whether frames that arrive now are kept, by Kafka or by the spool. Needs no token.",
            {"200": answer("They are.", "Ready"), "503": answer("They are dropped.", "Ready")},
        ),
        "/health": _get(
            "health",
            "Whether frames get through. Needs no token.",
            {"200": answer("Frames get through.", "Health"), "503": answer("Degraded; problems say why.", "Health")},
        ),
        "/stats": _get(
            "stats",
            "Counters and gauges of the system and of this edge.",
            {"200": answer("Now.", "Stats")} | errors("503"),
        ),
        "/metrics": _get("metrics", "The same for Prometheus.", {"200": {"description": "Text.", "content": _TEXT}}),
        "/openapi.json": _get("openapi", "This document.", {"200": {"description": "OpenAPI 3.1.", "content": _ANY}}),
        "/config": {"post": _CONFIG},
        PATH: tap_path(EdgeTapQuery, "received", "409"),
    },
    schemas=schemas(requests=(ConfigRequest,), answers=(ConfigResponse, Live, Ready, Health, Stats)),
)
