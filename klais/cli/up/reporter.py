"""Reporters of ``klais up``: plain lines, or one JSON object per line. The live screen is in
:mod:`klais.cli.up.screen`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from klais.cli.printing import say, say_json, say_text
from klais.cli.up.snapshot import Snapshot, totals_dict
from klais.system.durations import format_duration
from klais.verify.conservation import Totals


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses for the user, when everything runs."""

    kafka: str
    udp: str
    rest: str
    views: list[str]
    telemetry: str
    logs: str
    simulated: str | None

    def lines(self) -> list[str]:
        """The addresses as text."""
        out = [f"REST API   {self.rest}/health   and /stats /metrics /openapi.json"]
        for views in self.views:
            out.append(f"live page  {views}/ui/   (as JSON: /devices/ /dam/ /anomalies/ /topics/)")
        out.append(f"frames to  udp {self.udp}" + (f", {self.simulated}" if self.simulated else ""))
        out.append(f"Kafka      {self.kafka}   logs {self.logs}")
        out.append(f"""try        klais tail {self.telemetry} -f     klais send --device dev-1 '{{"t":21.5}}'""")
        return out


@dataclass(frozen=True, slots=True)
class Summary:
    """Result of a run. ``differences`` lists totals that do not add up; ``waiting`` names an acceptable reason."""

    seconds: float
    totals: Totals
    simulated: bool
    differences: list[str]
    waiting: str | None = None

    def lines(self) -> list[str]:
        """The result as text: every stage, and the drops."""
        t = self.totals
        rows: list[tuple[str, int, Mapping[str, int]]] = [("sent", t.sent, {})] if self.simulated else []
        rows += [
            ("received by the edge", t.edge_received, t.edge_dropped),
            ("published to klais_raw", t.published, {}),
            ("received by the worker", t.worker_received, t.worker_dropped),
            ("passed", t.passed, {}),
            ("landed", t.landed, {}),
        ]
        out = [f"after {format_duration(round(self.seconds, 1))}, frames:"]
        for name, frames, dropped in rows:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
            out.append(f"  {name:<24}{frames:>14,}{f'   dropped: {reasons}' if reasons else ''}")
        if t.queued:
            out.append(
                f"  {'waiting in the queue':<24}{t.queued:>14,}   (stored in klais_raw, they land at the next start)"
            )
        if self.differences:
            out.append("they do not add up" + (f" ({self.waiting})" if self.waiting else "") + ":")
            out += [f"  {text}" for text in self.differences]
        else:
            out.append("they add up: every frame is accounted for")
        return out

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "seconds": round(self.seconds, 3),
            "totals": totals_dict(self.totals),
            "adds_up": not self.differences,
            "differences": self.differences,
            "waiting": self.waiting,
        }


class Reporter(Protocol):
    """Reports events to the user."""

    def progress(self, text: str) -> None: ...

    def ready(self, addresses: Addresses) -> None: ...

    def snapshot(self, snapshot: Snapshot) -> None: ...

    def summary(self, summary: Summary) -> None: ...

    def close(self) -> None: ...


class PlainReporter:
    """Prints plain lines."""

    def progress(self, text: str) -> None:
        """Report one event."""
        say_text(text)

    def ready(self, addresses: Addresses) -> None:
        """Report that everything runs, with the addresses."""
        say("ready", *(f"  {line}" for line in addresses.lines()))

    def snapshot(self, snapshot: Snapshot) -> None:
        """Report the state, once a second."""
        say(snapshot.line())

    def summary(self, summary: Summary) -> None:
        """Report the result of the run."""
        say(*summary.lines())

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class JsonReporter:
    """Prints one JSON object per line; ``event`` names its kind."""

    def _put(self, event: str, **fields: Any) -> None:
        say_json({"event": event, **fields})

    def progress(self, text: str) -> None:
        """Report one event."""
        self._put("progress", text=text)

    def ready(self, addresses: Addresses) -> None:
        """Report that everything runs, with the addresses."""
        names = ("kafka", "udp", "rest", "views", "telemetry", "logs")
        self._put("ready", **{name: getattr(addresses, name) for name in names})

    def snapshot(self, snapshot: Snapshot) -> None:
        """Report the state, once a second."""
        self._put("snapshot", **snapshot.as_dict())

    def summary(self, summary: Summary) -> None:
        """Report the result of the run."""
        self._put("summary", **summary.as_dict())

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
