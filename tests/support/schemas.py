"""Records checked against the schemas of ``docs/``."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs

DOCS = Path(__file__).parents[2] / "docs"


def problems(topic: str, record: Any) -> list[str]:
    """What is wrong with a record (``topic`` without prefix, as the file); empty if it fits the schema."""
    schema = json.loads((DOCS / f"{topic}.schema.json").read_text())
    return [f"{list(error.instance_path)}: {error.message}" for error in jsonschema_rs.iter_errors(schema, record)]
