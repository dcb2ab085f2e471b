"""The figures behind the page of one worker: a sample each second, their history, and the event of the stream."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from klais.config.load import Settings
from klais.control.setpoints import DEVICE, ControlFollower
from klais.control.shown import control_in_force
from klais.errors import KlaisError
from klais.kafka.offsets import offsets_at
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.system import shallow_json
from klais.system.clock import now_ms
from klais.telemetry import log as logs
from klais.telemetry.log import get
from klais.telemetry.schema import VERSION
from klais.telemetry.view import ProcessView, Record, SystemView
from klais.ui.history import SECONDS, History
from klais.ui.sample import Sampler
from klais.ui.status import body

log = get("klais.ui.feed")

KINDS = ("edge", "worker", "controller")
PERIOD_S = 1.0
START_S = 10.0  # before that, missing reports are not a problem
FRESH_MS = 3000
MAX_RECORDS = 200_000  # records of klais_stats read at the start
MAX_DECISIONS, MAX_OVERRIDES = 60, 500  # limits of an event, which each viewer gets every second
BRIEF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("at", "rate", "reason", "cut"), ()),
    "inputs": ("lag", "cpu"),
    "terms": ("p", "i", "d"),
    "forecast": ("why",),
}


class Stats(Protocol):
    """The newest record of each process (:class:`klais.kafka.stats.StatsFollower`)."""

    def newest(self, kind: str) -> Mapping[str, Record]: ...

    def read(self, name: str, record: Record) -> ProcessView: ...

    def senders(self) -> Mapping[str, Mapping[str, Any]]: ...


class Feed:
    """Samples all processes once a second.

    Parameters
    ----------
    settings : Settings
        Of the worker.
    stats : Stats
        Reports of the processes.
    control : ControlFollower
        Limits, overrides and decisions in force.
    """

    def __init__(self, settings: Settings, stats: Stats, control: ControlFollower) -> None:
        self._settings, self._stats, self._control = settings, stats, control
        self._sampler = Sampler()
        self.history = History()
        self._newest: dict[str, float] = {}
        self._at_ms = 0
        self._began_s = time.monotonic()
        self._recovered = asyncio.Event()

    async def ready(self) -> None:
        """Wait until the history contains the time before this worker's start."""
        await self._recovered.wait()

    async def run(self) -> None:
        """Read the last minutes, then sample until cancelled; errors are logged, not raised."""
        try:
            await self._recover()
        except Exception:  # the history is shorter: that must not end the samples
            log.exception("history_failed")
        finally:
            self._recovered.set()
        while True:
            try:
                self.sample()
            except Exception:
                if logs.every(60, "klais.ui.feed"):
                    log.exception("sample_failed")
            await asyncio.sleep(PERIOD_S)

    def sample(self) -> None:
        """Take one sample."""
        system = SystemView.of(self._stats.newest, self._stats.read)
        self._newest, self._at_ms = self._sampler.sample(system, time.monotonic()), now_ms()
        if self._recovered.is_set():  # before that, a new sample would block older ones from the history
            self.history.add(self._at_ms, self._newest)

    def event(self) -> tuple[int, bytes]:
        """Time (epoch ms) and JSON of the newest sample with the reports of each process."""
        if not self._newest:
            self.sample()
        records = {kind: self._stats.newest(kind) for kind in KINDS}
        starting = time.monotonic() - self._began_s < START_S
        control = control_in_force(self._control, self._settings, MAX_DECISIONS)
        control["overrides"] = first_overrides(control["overrides"])
        control["decisions"] = [brief(decision) for decision in control["decisions"]]
        found = body(
            self._at_ms,
            self._newest,
            records,
            self._stats.senders(),
            self._settings.partitions,
            control,
            starting,
            self.history.path(),
            self._stats.read,
        )
        return self._at_ms, orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)

    async def _recover(self) -> None:
        """Fill the history from the records of the last 15 minutes on ``klais_stats``."""
        topic, after_ms = Topics.of(self._settings).stats, now_ms() - SECONDS * 1000
        try:
            starts = await asyncio.to_thread(offsets_at, self._settings, topic, after_ms)
            async with PartitionReader(self._settings, 10.0) as reader:
                _, end = await reader.offsets(topic, 0)
                start = max(starts.get(0, end), end - MAX_RECORDS)
                recovery = Recovery(self.history)
                async for record in reader.read(topic, 0, start, end):
                    recovery.add(record.value)
        except KlaisError as error:
            log.info("history_not_recovered", why=str(error))


def first_overrides(overrides: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that an event carries: the global one and the sources before the devices, each newest first.

    The controller may block hundreds of devices in a flood; an operator's newest change is shown all the same.
    """
    ranked = sorted(overrides, key=lambda row: (row["scope"].startswith(DEVICE), -row.get("at", 0)))
    return ranked[:MAX_OVERRIDES]


def brief(decision: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a decision that the page shows; ``/control/`` has all of it."""
    out: dict[str, Any] = {}
    for name, parts in BRIEF.items():
        value = decision.get(name)
        if parts and isinstance(value, Mapping):
            out[name] = {part: value[part] for part in parts if part in value}
        elif not parts and value is not None:
            out[name] = value
    return out


class Recovery:
    """Builds samples from records on ``klais_stats``, one per second of their senders' clocks."""

    def __init__(self, history: History) -> None:
        self._history, self._sampler = history, Sampler()
        self._newest: dict[str, Record] = {}
        self._second = 0

    def add(self, value: bytes | None) -> None:
        """Add one record; invalid ones and those with a clock far ahead are skipped."""
        try:
            record = shallow_json.loads(value or b"")
            usable = record["v"] == VERSION and all(
                isinstance(record[k], dict) for k in ("counters", "gauges", "rates")
            )
            second, name = int(record["at_ms"]) // 1000, str(record["id"])
        except (ValueError, KeyError, TypeError):
            return
        if not usable or second * 1000 > now_ms():
            return
        if second > self._second and self._newest:
            at_ms = self._second * 1000
            system = SystemView.of(lambda kind: self._of(kind, at_ms))
            self._history.add(at_ms, self._sampler.sample(system, float(self._second)))
        self._second = max(self._second, second)
        self._newest[name] = record

    def _of(self, kind: str, at_ms: int) -> dict[str, Record]:
        return {
            name: record
            for name, record in self._newest.items()
            if record.get("kind") == kind and at_ms - int(record["at_ms"]) <= FRESH_MS
        }
