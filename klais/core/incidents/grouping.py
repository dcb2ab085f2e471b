"""Group flags into incidents (pure): flags wait for a window, then flags that belong together form one incident.

Flags are absorbed in any order; :meth:`Grouping.settle` decides, as often as its caller likes. A flag joins an open
incident of its device, or of its feature if that is recent. Several devices with the same feature within a window open
one incident together. A single device opens one if its flag is severe. All other flags stay flags, because a few false
ones per hour are normal.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from klais.core.incidents.incident import FEATURES, Incident, Kind, feature_class, id_of, incident_of
from klais.core.incidents.summary import MAX_NUMBER, FlagSeen, Summary, check_whole, hash_of, summary_of

FAMILIES = {
    **{"interval": "rhythm", "silence": "rhythm", "stuck": "stuck", "absent": "absent"},
    **{"type": "type", "impersonation": "type", "odd": "type"},
}  # else "value"
ALWAYS_SEVERE = frozenset({"stuck", "absent", "type", "impersonation"})
MAX_PENDING = 2048  # waiting (device, feature) pairs; above this, those with the lowest hashes are kept
MAX_SAVED = 256  # waiting pairs in the saved state: a new leader knows fewer only in a storm of unrelated flags
MAX_OPEN = 100
MAX_CLOSED = 200  # closed incidents that are remembered
NOISE_MS = 3_600_000.0  # memory for how many flags of a family stay alone
UPDATE_MS = 60_000  # an incident that grows is written again after this time, and immediately when it has doubled
Key = tuple[str, str]  # feature, family
Place = tuple[str, str, str]  # and device


def family_of(cause: str) -> str:
    """The family of a cause: devices that fall silent and devices that slow down share one."""
    return FAMILIES.get(cause, "value")


@dataclass(frozen=True, slots=True)
class Rules:
    """When flags become an incident: ``devices`` within ``window_ms``, or one flag with a score of ``severe``. The
    incident ends after ``quiet_ms`` without a flag."""

    window_ms: int = 30_000
    devices: int = 3
    severe: float = 10.0
    quiet_ms: int = 600_000

    @property
    def join_ms(self) -> int:
        """A flag joins an incident of its feature if the newest flag of that is at most this old."""
        return 2 * self.window_ms


@dataclass(slots=True)
class Totals:
    """Totals since the first leader: incidents opened by class of feature; flags suppressed by muting, flags that
    stayed alone, flags that did not fit."""

    opened: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FEATURES, 0))
    flags: int = 0
    muted: int = 0
    alone: int = 0
    skipped: int = 0


class Grouping:
    """Open incidents, recently closed ones, and waiting flags.

    Parameters
    ----------
    rules : Rules
        When flags become an incident.

    Attributes
    ----------
    incidents : dict
        Open and the newest closed incidents, by id.
    totals : Totals
        The totals.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.incidents: dict[str, Incident] = {}
        self.totals = Totals()
        self._pending: dict[Place, Summary] = {}
        self._highest: list[tuple[int, Place]] = []  # heap of (minus hash, place) while the waiting room is full
        self._noise: dict[str, float] = {}
        self._noise_ms = 0
        self._changed: dict[str, Incident] = {}
        self._dirty: dict[str, Incident] = {}
        self._forgotten: list[str] = []

    # -- flags

    def absorb(self, flag: FlagSeen, muted: bool = False) -> None:
        """Queue a flag for the next :meth:`settle`."""
        self.totals.flags += 1
        if muted:
            self.totals.muted += 1
            return
        place = (flag.feature, family_of(flag.cause), flag.device)
        self._wait(place, Summary.of(flag))

    def _wait(self, place: Place, what: Summary) -> None:
        known = self._pending.get(place)
        if known is not None:
            known.merge(what)
            return
        if len(self._pending) >= MAX_PENDING:
            if not self._highest:
                self._highest = [(-hash_of("\0".join(other)), other) for other in self._pending]
                heapq.heapify(self._highest)
            entry = (-hash_of("\0".join(place)), place)
            out = heapq.heappushpop(self._highest, entry)
            skipped = what if out == entry else self._pending.pop(out[1])
            self.totals.skipped += skipped.flags
            if out == entry:
                return
        self._pending[place] = what

    def settle(self, now_ms: int) -> list[Incident]:
        """Decide on the waiting flags; returns each incident that was opened, updated or closed once."""
        self._decay(now_ms)
        if self._pending:
            self._join()
            self._open_groups(now_ms)
            self._join()
            self._open_single(now_ms)
            self._expire(now_ms)
        for incident in [one for one in self.incidents.values() if one.is_open and one.kind != "fleet"]:
            if now_ms - max(incident.what.newest_ms, incident.opened_ms) >= self.rules.quiet_ms:
                self.close(incident, now_ms)
        changed = self._written(now_ms)
        self._forget()
        return changed

    def _join(self) -> None:
        """Add waiting flags to the open incidents that they belong to."""
        fits = self._incident_finder()
        for place in sorted(self._pending):
            home = fits(place, self._pending[place])
            if home is not None:
                home.add(self._take(place))
                self._change(home)

    def _incident_finder(self) -> Callable[[Place, Summary], Incident | None]:
        """A function that finds the incident of a waiting entry; uses the present incidents, so order has no effect."""
        by_device: dict[str, Incident] = {}
        by_key: dict[Key, list[tuple[int, Incident]]] = {}
        groups: list[tuple[int, Incident]] = []
        fleet = None
        for incident in sorted(self.open(), key=lambda one: (one.opened_ms, one.id)):
            if incident.kind == "fleet":
                fleet = incident
            elif incident.kind == "device":
                by_device[incident.what.first.device] = incident
            else:
                groups.append((incident.what.newest_ms, incident))
                for cause in incident.what.causes:
                    for name in incident.what.features:
                        by_key.setdefault((name, family_of(cause)), []).append((incident.what.newest_ms, incident))

        def fits(place: Place, what: Summary) -> Incident | None:
            feature, family, device = place
            if family == "rhythm" and fleet is not None:
                return fleet
            if device in by_device:
                return by_device[device]
            for newest_ms, incident in by_key.get((feature, family), ()):
                if device in incident.what.members or what.first.at_ms - newest_ms <= self.rules.join_ms:
                    return incident
            for newest_ms, incident in groups:
                if device in incident.what.members and what.first.at_ms - newest_ms <= self.rules.join_ms:
                    return incident
            return None

        return fits

    def _open_groups(self, now_ms: int) -> None:
        newest: dict[Key, int] = {}
        for place, what in self._pending.items():
            newest[place[:2]] = max(what.newest_ms, newest.get(place[:2], what.newest_ms))
        places: dict[Key, list[Place]] = {}
        for place, what in self._pending.items():
            # The window is measured from the newest flag, so that a late leader still groups flags with one cause.
            # A flag from the future (a foreign record) must not exclude the others: at most from now.
            if min(now_ms, newest[place[:2]]) - what.newest_ms <= self.rules.window_ms:
                places.setdefault(place[:2], []).append(place)
        for key in sorted(places, key=lambda key: (-len(places[key]), key)):
            if len(places[key]) < self._needed(key[1]):
                continue
            what = _sum(self._take(place) for place in sorted(places[key]))
            home = self._same(key, what)
            if home is None:
                self._open("group", key[0], what, now_ms)
            else:
                home.kind = "group"
                home.add(what)
                self._change(home)

    def _needed(self, family: str) -> int:
        """Number of devices that is more than a coincidence: 4 standard deviations above the mean of single flags."""
        mean = self._noise.get(family, 0.0) * self.rules.window_ms / NOISE_MS
        return max(self.rules.devices, int(self.rules.devices + mean + 4.0 * mean**0.5))

    def _same(self, key: Key, what: Summary) -> Incident | None:
        """An open incident with the same cause: it contains most of the devices, or it is the first of them."""
        names = what.members.names()
        for incident in sorted(self.open(), key=lambda one: (one.opened_ms, one.id)):
            recent = what.first.at_ms - incident.what.newest_ms <= self.rules.join_ms
            if not recent or incident.kind == "fleet":
                continue
            alike = incident.feature == key[0] and any(family_of(cause) == key[1] for cause in incident.what.causes)
            if alike or 2 * sum(name in incident.what.members for name in names) >= len(names):
                return incident
        return None

    def _open_single(self, now_ms: int) -> None:
        """Open incidents for severe flags of single devices, after a window in which other devices could join."""
        of_device: dict[str, list[Place]] = {}
        for place in self._pending:
            of_device.setdefault(place[2], []).append(place)
        for device in sorted(of_device):
            places = of_device[device]
            severe = [place for place in places if self._severe(self._pending[place])]
            if severe and now_ms - min(self._pending[p].first.at_ms for p in severe) >= self.rules.window_ms:
                what = _sum(self._take(place) for place in sorted(places))
                self._open("device", what.worst.feature, what, now_ms)

    def _severe(self, what: Summary) -> bool:
        return what.worst.score >= self.rules.severe or not ALWAYS_SEVERE.isdisjoint(what.causes)

    def _expire(self, now_ms: int) -> None:
        for place in [place for place, what in self._pending.items() if self._is_over(what, now_ms)]:
            self.totals.alone += self._take(place).flags
            self._noise[place[1]] = self._noise.get(place[1], 0.0) + 1.0

    def _is_over(self, what: Summary, now_ms: int) -> bool:
        return now_ms - what.newest_ms > self.rules.window_ms and not self._severe(what)

    def _take(self, place: Place) -> Summary:
        self._highest.clear()
        return self._pending.pop(place)

    def _decay(self, now_ms: int) -> None:
        ahead = self._noise_ms - now_ms > NOISE_MS  # of a clock that was wrong: else nothing would decay until then
        passed, self._noise_ms = max(0, now_ms - self._noise_ms), now_ms if ahead else max(now_ms, self._noise_ms)
        for family in self._noise:
            self._noise[family] *= max(0.0, 1.0 - passed / NOISE_MS)

    # -- incidents

    def open(self) -> list[Incident]:
        """The open incidents."""
        return [incident for incident in self.incidents.values() if incident.is_open]

    def _open(self, kind: Kind, feature: str, what: Summary, now_ms: int) -> Incident | None:
        found = id_of(what.first)
        if len(self.open()) >= MAX_OPEN or found in self.incidents:
            self.totals.skipped += what.flags
            return None
        before = sum(one.kind == kind and one.feature == feature for one in self.incidents.values())
        incident = Incident(found, kind, feature, what, now_ms, before=before, revision=0)
        self.incidents[found] = incident
        self._change(incident)
        self.totals.opened[feature_class(feature)] += 1
        return incident

    def _change(self, incident: Incident) -> None:
        self._changed[incident.id] = self._dirty[incident.id] = incident

    def fleet(self, flag: FlagSeen, now_ms: int) -> None:
        """The fleet's rate is far from usual: open the fleet's incident, or add to it."""
        known = self.fleet_incident()
        if known is None:
            self._open("fleet", flag.feature, Summary.of(flag), now_ms)
            return
        known.observe(flag)
        self._change(known)

    def fleet_incident(self) -> Incident | None:
        """The open incident of the whole fleet, if any."""
        return next((one for one in self.open() if one.kind == "fleet"), None)

    def close(self, incident: Incident, now_ms: int) -> None:
        """Close an incident."""
        incident.closed_ms = max(now_ms, 1)
        self._change(incident)

    def _written(self, now_ms: int) -> list[Incident]:
        """Incidents to write now: opened, closed, doubled in size, or changed a while ago."""
        out = []
        for incident in sorted(self._changed.values(), key=lambda one: (one.opened_ms, one.id)):
            members = incident.what.members.count
            doubled = members >= 2 * max(1, incident.written_members)
            if incident.revision and incident.is_open and not doubled and now_ms - incident.written_ms < UPDATE_MS:
                continue
            incident.revision += 1
            incident.written_ms, incident.written_members = now_ms, members
            self._dirty[incident.id] = incident
            del self._changed[incident.id]
            out.append(incident)
        return out

    def _forget(self) -> None:
        closed = sorted((one.closed_ms, one.id) for one in self.incidents.values() if not one.is_open)
        for _, name in closed[: max(0, len(closed) - MAX_CLOSED)]:
            del self.incidents[name]
            self._forgotten.append(name)

    def take_dirty(self) -> list[Incident]:
        """Incidents that changed since the last call, whether :meth:`settle` returned them or not."""
        out = [one for name, one in sorted(self._dirty.items()) if name in self.incidents]
        self._dirty = {}
        return out

    def take_forgotten(self) -> list[str]:
        """Ids of incidents that were forgotten since the last call."""
        out, self._forgotten = self._forgotten, []
        return out

    # -- state

    def state(self) -> dict[str, Any]:
        """Everything except the incidents, as JSON."""
        return {
            "pending": [[*place, self._pending[place].record()] for place in self._to_save()],
            "noise": self._noise,
            "noise_ms": self._noise_ms,
            "totals": {name: getattr(self.totals, name) for name in Totals.__slots__},
        }

    def _to_save(self) -> list[Place]:
        if len(self._pending) <= MAX_SAVED:
            return sorted(self._pending)
        return heapq.nsmallest(MAX_SAVED, self._pending, key=lambda place: (hash_of("\0".join(place)), place))

    def restore(self, state: dict[str, Any], incidents: Iterable[dict[str, Any]]) -> None:
        """Continue from :meth:`state` and :meth:`Incident.state`.

        Raises
        ------
        ValueError
            If they cannot be read.
        """
        try:
            self.incidents = {one.id: one for one in map(incident_of, incidents)}
            pending = state.get("pending", ())[:MAX_SAVED]
            self._pending = {(str(a), str(b), str(c)): summary_of(what) for a, b, c, what in pending}
            self._noise = _noise(state.get("noise", {}))
            self._noise_ms = state.get("noise_ms", 0)
            self.totals = _totals(state.get("totals", {}))
            check_whole(self._noise_ms)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"the state of incidents cannot be read: {error!r}") from None


def _noise(found: dict[str, Any]) -> dict[str, float]:
    """Flags of each family that recently stayed alone."""
    noise = {name: float(found[name]) for name in {*FAMILIES.values(), "value"} & found.keys()}
    if not all(0.0 <= value <= MAX_NUMBER for value in noise.values()):
        raise ValueError(f"the noise of families is {found!r:.80}")
    return noise


def _totals(found: dict[str, Any]) -> Totals:
    """The totals; a missing class of features counts 0."""
    totals = Totals(**found)
    totals.opened = dict.fromkeys(FEATURES, 0) | {
        name: totals.opened[name] for name in FEATURES if name in totals.opened
    }
    check_whole(totals.flags, totals.muted, totals.alone, totals.skipped, *totals.opened.values())
    return totals


def _sum(parts: Iterable[Summary]) -> Summary:
    rest = iter(parts)
    whole = next(rest).copy()
    for part in rest:
        whole.merge(part)
    return whole
