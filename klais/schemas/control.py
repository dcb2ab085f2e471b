"""Records of ``klais_control`` and ``klais_audit``. The field ``scope`` of a record is also its key."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, RootModel

from klais.control.incidents import MUTED
from klais.control.setpoints import ACK, DEVICE, GLOBAL, INCIDENT, INCIDENTS, MUTE, OVERRIDE
from klais.control.source_blocks import SOURCE
from klais.core.incidents.incident import ID
from klais.core.wire.constants import ID_SIZE
from klais.schemas.anomalies import Kind
from klais.schemas.parts import AtMs, Count, Figure, Limit, Model, Share, exactly, optional


class Stamped(Model):
    """Who wrote the record, and when."""

    author: str | None = optional("user, or controller")
    reason: str | None = optional("why")
    at: AtMs | None = optional("when it was written, ms since the epoch")
    by: str | None = optional("controller that wrote it")
    term: Count | None = optional("epoch of the controller that wrote it")


class Gains(Model):
    """Gains of the controller."""

    kp: Figure | None = optional("proportional gain")
    ki: Figure | None = optional("integral gain, 1/s")
    kd: Figure | None = optional("derivative gain, s")
    filter_s: Figure | None = optional("time constant of the derivative's filter, s")


class SetPoints(Model):
    """Set-points of the controller."""

    lag: Figure | None = optional("frames")
    cpu: Figure | None = optional("share of the busiest process")


class HostLimit(Model):
    """What a host's edges may admit."""

    rate: Annotated[float, Field(gt=0)] = Field(description="frames/s")
    burst: Annotated[float, Field(gt=0)] = Field(description="frames")


class Decision(Stamped):
    """A decision of the controller."""

    scope: Annotated[str, exactly(GLOBAL)]
    v: Literal[1] | None = optional("version")
    mode: Literal["auto", "manual", "fixed"] | None = optional("source of the rate; without it, an override")
    rate: Limit | None = optional("global rate, frames/s")
    burst: Limit | None = optional("global burst, frames")
    cut: Figure | None = optional("share by which a forecast burst reduces the rate")
    alert: bool | None = optional("the cut is so large that operators should check")
    device_rate: Limit | None = optional("limit of each device during an attack, frames/s")
    inputs: dict[str, float | bool] | None = optional("measured values")
    error: dict[str, float] | None = optional("errors of lag and CPU")
    terms: dict[str, float] | None = optional("terms of the PID")
    gains: Gains | None = optional("gains in force")
    forecast: dict[str, Any] | None = optional("forecast of the traffic")
    shares: dict[str, Share] | None = optional("share of the rate by partition")
    hosts: dict[str, HostLimit] | None = optional("limits by host")


class Override(Stamped):
    """The request of an operator."""

    scope: Annotated[str, exactly(OVERRIDE)]
    mode: Literal["auto", "manual"] | None = optional("manual: rate is in force; auto: the controller sets it")
    rate: Limit | None = optional("frames/s")
    burst: Limit | None = optional("frames")
    gains: Gains | None = optional("gains of the controller")
    setpoints: SetPoints | None = optional("set-points of the controller")
    until_ms: AtMs | None = optional("end; absent = without end")


class Block(Stamped):
    """Common fields of blocks."""

    block: bool | None = optional("drop the frames")
    unblock: bool | None = optional("an operator lifted the block: the controller sets none")
    until_ms: AtMs | None = optional("end of the block; absent = without end")


class DeviceRecord(Block):
    """Block and limits of a device."""

    scope: str = Field(pattern=f"^{DEVICE}", min_length=len(DEVICE) + 1, max_length=len(DEVICE) + ID_SIZE)
    rate: Limit | None = optional("its own rate, frames/s")
    burst: Limit | None = optional("its own burst, frames")
    limits_until_ms: AtMs | None = optional("end of rate and burst; absent = without end")
    forget_ms: AtMs | None = optional("its lane forgets the state of the device as of this time")


class SourceRecord(Block):
    """Block of a prefix of source addresses."""

    scope: str = Field(pattern=rf"^{SOURCE}[0-9a-f.:]+/\d{{1,3}}$", description="the prefix in its shortest form")


class IncidentState(Stamped):
    """An incident that the controller remembers."""

    scope: str = Field(pattern=f"^{INCIDENT}{ID.pattern}$")
    v: Count
    id: str
    kind: Kind
    feature: str
    opened_ms: AtMs
    closed_ms: Count = Field(description="0 while it is open")
    revision: Count
    before: Count
    written_ms: Count
    written_members: Count
    what: dict[str, Any] = Field(description="its flags, summed up")
    explanation: str


class Grouping(Stamped):
    """What a new leader needs to continue with incidents."""

    scope: Annotated[str, exactly(INCIDENTS)]
    next: dict[str, Count] | None = optional("next offset of klais_anomalies by partition")
    floor: int | None = optional("offset up to which announced incidents are known")
    unsent: dict[str, Count] | None = optional("revisions of incidents that are not announced yet")


class AckRecord(Stamped):
    """Acknowledgement of an incident."""

    scope: str = Field(pattern=f"^{ACK}")
    ack: bool | None = optional("acknowledged")
    until_ms: AtMs | None = optional("end; absent = without end")


class MuteRecord(Stamped):
    """No new incident for a device, a prefix or a feature."""

    scope: str = Field(pattern=f"^{MUTE}({'|'.join(MUTED)})/")
    mute: bool | None = optional("muted")
    until_ms: AtMs | None = optional("end; absent = without end")


class ControlRecord(
    RootModel[Decision | Override | DeviceRecord | SourceRecord | IncidentState | Grouping | AckRecord | MuteRecord]
):
    """A record of klais_control by its scope. Readers ignore other scopes, and a record without a value deletes."""

    model_config = ConfigDict(title="klais_control record")


class AuditRecord(Model):
    """A change by an operator, written before the change itself; its key is ``scope``."""

    model_config = ConfigDict(title="klais_audit record")
    scope: str = Field(min_length=1)
    author: str
    address: str = Field(description="address of the client; empty for the command line")
    reason: str
    at: AtMs
    before: dict[str, Any] = Field(description="the record of the scope before the change, without its stamp")
    after: dict[str, Any] = Field(description="and after it")
