"""The files of ``docs/`` with the schemas of the topics."""

import json

from pydantic import BaseModel

from klais.schemas.anomalies import AnomalyRecord
from klais.schemas.control import AuditRecord, ControlRecord
from klais.schemas.telemetry import DeadLetterHeaders, TelemetryRecord
from klais.telemetry.schema import StatsRecord

FILES: dict[str, type[BaseModel]] = {
    "iot_telemetry.schema.json": TelemetryRecord,
    "klais_anomalies.schema.json": AnomalyRecord,
    "klais_audit.schema.json": AuditRecord,
    "klais_control.schema.json": ControlRecord,
    "klais_dead_letter.headers.schema.json": DeadLetterHeaders,
    "klais_stats.schema.json": StatsRecord,
}


def text_of(name: str) -> str:
    """The text of a file of :data:`FILES`."""
    return json.dumps(FILES[name].model_json_schema(), indent=1, sort_keys=True) + "\n"
