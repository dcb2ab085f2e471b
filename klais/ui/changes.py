"""``/api/v1``: changes by operators, used by the page and by programs; every change is in ``klais_audit``.

A change is one record on ``klais_control`` that every worker, edge and XDP filter follows. It names its author, its
reason and, if it expires, its end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, ClassVar, Literal
from unicodedata import category

from confluent_kafka import KafkaException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from klais.control.incidents import ack_scope, mute_scope
from klais.control.overrides import Writer, apply, blocking, device_scope, unblocking, until
from klais.control.setpoints import INCIDENT, OVERRIDE, ControlFollower
from klais.control.source_blocks import MAX_BLOCKED_SOURCES, need_room, source_scope
from klais.core.wire.constants import ID_RULE, is_device_id
from klais.errors import ChangedMeanwhile, SourceBlocksFull
from klais.http.body import Body
from klais.http.errors import HttpError
from klais.system.clock import now_ms
from klais.system.prefix import Network
from klais.telemetry.log import get

log = get("klais.ui.changes")

MAX_BLOCKED = 1000
YEAR_S = 366 * 86_400.0


def _fits_an_id(text: str) -> str:
    if not is_device_id(text.encode(errors="replace")):
        raise ValueError(ID_RULE)
    return text


def one_line(text: str) -> str:
    """Text that people read in a list: the same, or ValueError."""
    if text and not text.strip():
        raise ValueError("must not be blank")
    if any(category(c) in ("Cc", "Zl", "Zp") for c in text):
        raise ValueError("must be one line without control characters")
    return text


Line = Annotated[str, AfterValidator(one_line)]
DeviceId = Annotated[str, AfterValidator(_fits_an_id)]
Seconds = Annotated[
    float | None, Field(default=None, gt=0, le=YEAR_S, description="Expires after this time (s); null = never.")
]
Rate = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Burst = Annotated[float, Field(ge=1, le=1e9, allow_inf_nan=False)]


class Reason(Body):
    """Reason and, without a session, author."""

    reason: Line = Field(min_length=1, max_length=200, description="Shown with the change.")
    author: Line = Field(
        default="", max_length=64, description="Author of the change; the name of a session replaces it."
    )


class Block(Reason):
    """Drop every frame of a device, or of a source address."""

    for_s: Seconds = None


class Unblocks(Reason):
    """Let the frames of several devices pass again."""

    max_bytes: ClassVar[int] = 128 << 10  # the maximum of ids, each character as \uXXXX
    device_ids: list[DeviceId] = Field(min_length=1, max_length=MAX_BLOCKED)


class Blocks(Unblocks, Block):
    """Drop every frame of several devices."""


class DeviceLimits(Reason):
    """A device's own rate and burst."""

    rate: Rate | None = Field(default=None, description="frames/s; null = the default of all devices")
    burst: Burst | None = Field(default=None, description="frames; null = the default of all devices")
    for_s: Seconds = None


class Ack(Reason):
    """Acknowledge an incident."""

    for_s: Seconds = None


class Unmute(Reason):
    """What to unmute."""

    what: Literal["device", "prefix", "feature"] = Field(description="One device, devices by first bytes, a feature.")
    name: str = Field(min_length=1, max_length=120, description="The device_id, the prefix, or the feature.")


class Mute(Unmute):
    """Open no new incident for it; its flags are still counted."""

    for_s: Seconds = None

    @field_validator("name")
    @classmethod
    def _can_be_met(cls, name: str, info: ValidationInfo) -> str:
        return name if info.data.get("what") == "feature" else _fits_an_id(name)


class Override(Reason):
    """The rate of the whole system."""

    mode: Literal["manual", "auto"] = Field(description="manual: rate is in force; auto: the controller sets it.")
    rate: Rate | None = Field(default=None, description="frames/s, with mode manual")
    burst: Burst | None = Field(default=None, description="frames")
    for_s: Seconds = None


class Changed(BaseModel):
    """What is in force after a change."""

    model_config = ConfigDict(extra="forbid")

    scope: str
    before: dict[str, Any]
    after: dict[str, Any]


class Requester(BaseModel):
    """Origin of a request: the session's name, empty without one, and the address."""

    name: str = ""
    address: str = ""


class Changes:
    """Makes changes for this worker's API.

    Parameters
    ----------
    control : ControlFollower
        The records in force.
    writer : callable
        Returns the writer; blocking, called in a thread.
    rate_min : float
        Lowest accepted global rate; a lower one would stop the system.
    ready : callable
        Whether ``control`` has read the topic: before that, a change would overwrite the other fields of its record.
    """

    def __init__(
        self,
        control: ControlFollower,
        writer: Callable[[], Writer],
        rate_min: float,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._control, self._writer, self._rate_min, self._ready = control, writer, rate_min, ready
        self._one = asyncio.Lock()  # of this worker's requests; `apply` merges those of other processes

    async def block(self, device_id: str, asked: Block, who: Requester) -> Changed:
        """Drop the frames of a device."""
        return await self._write(device_scope(device_id), blocking(asked.for_s), asked, who)

    async def unblock(self, device_id: str, asked: Reason, who: Requester) -> Changed:
        """Let the frames of a device pass again."""
        return await self._write(device_scope(device_id), unblocking(), asked, who)

    async def block_all(self, asked: Blocks, who: Requester) -> list[Changed]:
        """Block several devices, in the order given; each is a record of its own. An error names those blocked."""
        return await self._each(asked, lambda device_id: self.block(device_id, asked, who), "blocked")

    async def unblock_all(self, asked: Unblocks, who: Requester) -> list[Changed]:
        """Unblock several devices, as :meth:`block_all`."""
        return await self._each(asked, lambda device_id: self.unblock(device_id, asked, who), "unblocked")

    @staticmethod
    async def _each(asked: Unblocks, change: Callable[[str], Awaitable[Changed]], done: str) -> list[Changed]:
        wanted, made = list(dict.fromkeys(asked.device_ids)), []
        for device_id in wanted:
            try:
                made.append(await change(device_id))
            except HttpError as error:
                text = f"{error}; {len(made)} of {len(wanted)} devices are {done}"
                more = {done: wanted[: len(made)]}
                raise HttpError(error.status, error.code, text, **error.details, **more) from None
        return made

    async def block_source(self, prefix: Network, asked: Block, who: Requester) -> Changed:
        """Drop the frames from a prefix of source addresses."""
        try:
            need_room(prefix, self._control.blocked_sources_in_force())
        except SourceBlocksFull as error:
            raise HttpError(422, "too_many_blocks", str(error), maximum=MAX_BLOCKED_SOURCES) from None
        return await self._write(source_scope(prefix), blocking(asked.for_s), asked, who)

    async def unblock_source(self, prefix: Network, asked: Reason, who: Requester) -> Changed:
        """Let the frames from a prefix of source addresses pass again."""
        return await self._write(source_scope(prefix), unblocking(), asked, who)

    async def limit(self, device_id: str, asked: DeviceLimits, who: Requester) -> Changed:
        """Give a device its own rate and burst."""
        if asked.rate is None and asked.burst is None:
            raise HttpError(422, "nothing_to_set", "give rate, burst or both; DELETE returns to the default")
        changes = {"rate": asked.rate, "burst": asked.burst, "limits_until_ms": until(asked.for_s)}
        return await self._write(device_scope(device_id), changes, asked, who)

    async def unlimit(self, device_id: str, asked: Reason, who: Requester) -> Changed:
        """Return to the default limits."""
        changes = {"rate": None, "burst": None, "limits_until_ms": None}
        return await self._write(device_scope(device_id), changes, asked, who)

    async def ack(self, incident_id: str, asked: Ack, who: Requester) -> Changed:
        """Acknowledge an incident."""
        self._need_records()
        if self._control.record(INCIDENT + incident_id) is None:
            raise HttpError(404, "unknown_incident", f"there is no incident {incident_id}", incident_id=incident_id)
        return await self._write(ack_scope(incident_id), {"ack": True, "until_ms": until(asked.for_s)}, asked, who)

    async def unack(self, incident_id: str, asked: Reason, who: Requester) -> Changed:
        """Revoke an acknowledgement."""
        return await self._write(ack_scope(incident_id), {"ack": None, "until_ms": None}, asked, who)

    async def mute(self, asked: Mute, who: Requester) -> Changed:
        """Open no new incident for a device, a prefix or a feature."""
        changes = {"mute": True, "until_ms": until(asked.for_s)}
        return await self._write(mute_scope(asked.what, asked.name), changes, asked, who)

    async def unmute(self, asked: Unmute, who: Requester) -> Changed:
        """Open incidents again for something that was muted."""
        return await self._write(mute_scope(asked.what, asked.name), {"mute": None, "until_ms": now_ms()}, asked, who)

    async def override(self, asked: Override, who: Requester) -> Changed:
        """Set the global rate, or let the controller set it."""
        if asked.mode == "manual":
            if asked.rate is None:
                raise HttpError(422, "missing_field", "rate is missing: mode manual needs one")
            if asked.rate < self._rate_min:
                text = f"rate is below {self._rate_min:g} frames/s (KLAIS_PID_RATE_MIN)"
                raise HttpError(422, "below_minimum", text, minimum=self._rate_min)
        elif asked.rate is not None:
            raise HttpError(422, "unknown_field", "rate: with mode auto the controller sets the rate")
        changes = {"mode": asked.mode, "rate": asked.rate, "until_ms": until(asked.for_s)}
        changes |= {"burst": asked.burst} if asked.burst is not None else {}
        return await self._write(OVERRIDE, changes, asked, who)

    async def end_override(self, asked: Reason, who: Requester) -> Changed:
        """End the override: the settings apply again."""
        gone = {name: None for name in ("mode", "rate", "burst", "gains", "setpoints")}
        return await self._write(OVERRIDE, gone | {"until_ms": now_ms()}, asked, who)

    def _need_records(self) -> None:
        if not self._ready():
            text = f"this worker has not read {self._control.topic} yet: try again in a moment, or ask another worker"
            raise HttpError(503, "starting", text)

    async def _write(self, scope: str, changes: dict[str, Any], asked: Reason, who: Requester) -> Changed:
        author = who.name or asked.author or f"page {who.address}"
        self._need_records()
        async with self._one:
            try:
                before, after = await asyncio.to_thread(
                    lambda: apply(self._control, self._writer(), scope, changes, author, asked.reason, who.address)
                )
            except KafkaException as error:
                text = f"Kafka did not acknowledge the change, so it is not in force: {error}"
                raise HttpError(503, "kafka_unavailable", text) from None
            except ChangedMeanwhile as error:
                raise HttpError(409, "changed_meanwhile", str(error), author=error.author) from None
        log.info("changed", scope=scope, by=author, address=who.address, reason=asked.reason)
        return Changed(scope=scope, before=before, after=after)
