"""Parts that the models of several topics share."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from klais.control.record_rules import MAX_LIMIT, MAX_NUMBER
from klais.core.wire.constants import ID_SIZE
from klais.system.clock import LATEST_MS


class Model(BaseModel):
    """A JSON object; readers ignore fields that they do not know."""

    model_config = ConfigDict(extra="allow")


DeviceId = Annotated[str, Field(min_length=1, max_length=ID_SIZE, description="1 to 16 bytes in UTF-8, no NUL")]
AtMs = Annotated[int, Field(ge=0, lt=LATEST_MS, description="ms since the epoch")]
Count = Annotated[int, Field(ge=0)]
Figure = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Limit = Annotated[float, Field(gt=0, le=MAX_LIMIT)]
Share = Annotated[float, Field(ge=0, le=1)]


def one_of(values: Iterable[str]) -> Any:
    """The constraint of a text with a closed list of values."""
    return Field(json_schema_extra={"enum": list(values)})


def exactly(value: str) -> Any:
    """The constraint of a text with one value."""
    return Field(json_schema_extra={"const": value})


def optional(description: str) -> Any:
    """A field that may be absent."""
    return Field(default=None, description=description)
