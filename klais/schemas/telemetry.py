"""Records of ``iot_telemetry``, and the headers of ``klais_dead_letter``."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from klais.core.wire.constants import Reason
from klais.schemas.parts import AtMs, DeviceId, Model, one_of

Sequence = Annotated[int, Field(ge=0, lt=1 << 32)]
Digits = Annotated[str, Field(pattern=r"^\d+$")]
ReasonLabel = Annotated[str, one_of(reason.label for reason in Reason if reason not in (Reason.PASSED, Reason.QUEUED))]


class TelemetryRecord(Model):
    """A clean record; its key is ``device_id``."""

    model_config = ConfigDict(title="iot_telemetry record")
    device_id: DeviceId
    seq: Sequence = Field(description="sequence number of the frame")
    ts: AtMs = Field(description="when the edge received the frame, ms since the epoch")
    data: dict[str, Any] = Field(description="the payload of the frame, byte for byte")


class DeadLetterHeaders(Model):
    """The headers of a dead letter, all of them text; the value is the frame as received."""

    model_config = ConfigDict(title="klais_dead_letter headers")
    reason: ReasonLabel = Field(description="why the frame or record was refused")
    stage: Literal["edge", "lane"] = Field(description="which stage refused it")
    ts: Digits = Field(description="when it was received, ms since the epoch")
    edge: Digits | None = Field(default=None, description="number of the edge that received it, if known")
    source: str | None = Field(default=None, description="ip:port of the sender, if known")
    bytes: Digits | None = Field(default=None, description="whole length, if the value is only the beginning")
    detail: str | None = Field(default=None, description="what exactly is wrong, for some reasons")
