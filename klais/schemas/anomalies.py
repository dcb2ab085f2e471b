"""Records of ``klais_anomalies``: flags of frames, and incidents."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel

from klais.core.anomaly.record import Cause
from klais.core.incidents.incident import ID, KINDS
from klais.schemas.parts import AtMs, Count, DeviceId, Model, one_of, optional
from klais.schemas.telemetry import Sequence

CauseLabel = Annotated[str, one_of(cause.name.lower() for cause in Cause if cause != Cause.NONE)]
Kind = Annotated[str, one_of(KINDS)]


class Flag(Model):
    """A frame with an unusual value; its key is ``device_id``."""

    kind: Literal["flag"]
    device_id: DeviceId
    seq: Sequence
    ts: AtMs = Field(description="when the edge received the frame, ms since the epoch")
    score: float = Field(description="how unusual the value is")
    feature: str = Field(description="interval_s, payload_bytes, type, fingerprint or the name of a numeric field")
    cause: CauseLabel
    value: float | None = Field(description="the value; null for an absent field and for a type")
    expected: float | None = Field(description="the usual value; null for an absent field and for a type")
    scale: float | None = Field(description="the usual size of a deviation")
    before: Count = Field(description="earlier flags of this feature, at most 255")
    state: Literal["anomalous"]
    edge: Count = Field(description="number of the edge that received the frame")
    explanation: str = Field(description="one sentence")
    type: str | None = optional("of a flag about a type: the type that the device now resembles")
    type_before: str | None = optional("of a flag about a type: its type before")
    firmware: str | None = optional("firmware version in the payload; absent if it has none")


class FlagOfIncident(Model):
    """A flag of an incident."""

    device: str
    feature: str
    cause: str = Field(description="as in a flag; pause or surge of the whole fleet")
    at_ms: AtMs = Field(description="when Kafka appended the flag, ms since the epoch")
    score: float
    value: float | None
    expected: float | None
    before: Count
    partition: Count
    edge: Count | None
    firmware: str
    explanation: str


class Incident(Model):
    """A revision of an incident; its key is ``id``, and it has the header ``kind: incident``."""

    kind: Literal["incident"]
    ts: AtMs = Field(description="when the record was written, ms since the epoch")
    id: str = Field(pattern=f"^{ID.pattern}$")
    state: Literal["open", "closed"]
    type: Kind
    feature: str
    features: list[str]
    causes: list[str]
    direction: Literal["rose", "fell", "changed"]
    opened_at: AtMs
    newest_at: AtMs
    closed_at: AtMs | None
    revision: int = Field(ge=1, description="1 for the first record of an incident, one more for each later one")
    flags: Count
    devices: Count = Field(description="number of devices")
    devices_exact: bool = Field(description="whether that number is exact; otherwise it is an estimate")
    members: list[str] = Field(description="some of the devices")
    partitions: list[Count]
    edges: list[Count]
    firmwares: list[str]
    more: list[str] = Field(description="names of the lists that are truncated")
    first: FlagOfIncident
    worst: FlagOfIncident
    before: Count = Field(description="earlier incidents of the same type and feature")
    explanation: str = Field(description="one sentence")


class AnomalyRecord(RootModel[Annotated[Flag | Incident, Field(discriminator="kind")]]):
    """A record of klais_anomalies. Readers ignore records of another kind."""

    model_config = ConfigDict(title="klais_anomalies record")
