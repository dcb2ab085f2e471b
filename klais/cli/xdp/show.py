"""Output of ``klais xdp``: text tables, or one JSON object."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from klais.cli.printing import clear_screen, say, say_json
from klais.system.durations import format_duration
from klais.text import escape

if TYPE_CHECKING:
    from klais.xdp.loader import Loaded
    from klais.xdp.maps import XdpMaps, XdpStatus
    from klais.xdp.rules import Rule


def echo(lines: list[str], found: Any, as_json: bool) -> None:
    """Print one or the other."""
    if as_json:
        say_json(jsonable(found))
    else:
        say(*lines)


def jsonable(value: Any) -> Any:
    """Dataclasses as objects, infinite numbers as null, numpy numbers as numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(name): jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def watch(draw: Callable[[Any, float], Any], again: bool, interval_s: float, as_json: bool) -> None:
    """Call ``draw(previous result, seconds since then)`` once, or until Ctrl-C."""
    last, at_s = None, time.monotonic()
    try:
        while True:
            if again and not as_json and last is not None:
                clear_screen()
            now_s = time.monotonic()
            last, at_s = draw(last, now_s - at_s), now_s
            if not again:
                return
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def loaded(done: "Loaded") -> list[str]:
    """Result of a load as text."""
    lines = [*done.notices]
    lines.append(f"loaded onto {done.iface}, {done.mode} mode, program {done.prog_id}, tag {done.tag}")
    if done.replaced:
        lines.append(f"replaced the filter on {', '.join(done.replaced)} without a gap")
    if done.kept_maps and done.new_maps:
        lines.append(f"new and empty, because their layout or size changed: {', '.join(done.new_maps)}")
        lines.append("edge and controller open them within seconds")
    elif done.kept_maps:
        lines.append("kept all maps: rules, buckets, counts")
    return lines


def gather(maps: "XdpMaps") -> dict[str, Any]:
    """Everything ``status`` shows, as one object."""
    from klais.xdp import bpf, loader
    from klais.xdp.layout import map_specs

    attached = []
    for found in loader.attached(maps.pin_dir):
        driver = Path(f"/sys/class/net/{found.link.name}/device/driver")
        name = driver.resolve().name if driver.exists() else found.link.kind
        prog = found.prog
        attached.append(
            {"iface": found.link.name, "ifindex": found.link.ifindex, "driver": name, "mode": found.link.mode}
            | {"prog_id": prog.id, "tag": prog.tag, "name": prog.name, "jited_bytes": prog.jited_bytes, "uid": prog.uid}
        )
    kinds = {spec.name: bpf.map_info(maps.fd(spec.name)) for spec in map_specs(1, 4096)}
    public: dict[str, Any] = jsonable(
        {
            "pin_dir": str(maps.pin_dir),
            "attached": attached,
            "maps": {name: {"id": info.id, "entries": info.entries} for name, info in kinds.items()},
            **asdict(maps.status()),
            "rules": len(maps.rules()),
        }
    )
    return public


def status(found: dict[str, Any]) -> list[str]:
    """``status`` as text."""
    lines = []
    for at in found["attached"]:
        where = f"{at['iface']} (driver {at['driver']}), {at['mode']} mode"
        lines.append(f"attached   {where}, program {at['prog_id']} {at['name']}, tag {at['tag']}")
    if not lines:
        lines.append(
            "attached   nowhere in this network namespace (maps are pinned; `klais xdp load` attaches the filter)"
        )
    about = found["about"]
    if about:
        who = f"{about.get('user')} (pid {about.get('pid')}) on {about.get('host')} at {about.get('at')}"
        lines.append(f"loaded by  {who}, klais {about.get('klais')}")
    lines.append(f"ports      {', '.join(map(str, found['ports'])) or 'none'}")
    lines.append(f"accepted   go to {found['accept']}" + (f" (ifindex {i})" if (i := found["accept_ifindex"]) else ""))
    lines += [f"           {line}" if n else f"limits     {line}" for n, line in enumerate(_limits_of(found))]
    lines.append(f"sources    {_allowed(found['allowed_sources'])}")
    lines.append(f"blocked    {_blocked(found['blocked_sources'])}")
    how = "the first is checked, the others pass" if found["fragments"] == "pass" else "all are dropped"
    lines.append(f"fragments  {how}")
    lines.append(f"monitor    {', '.join(found['monitor']) or 'no rule: all are in force'}")
    lines.append(f"rules      {found['rules']:,} devices have their own rule")
    sizes = ", ".join(f"{name} {info['entries']:,} (id {info['id']})" for name, info in found["maps"].items())
    lines.append(f"maps       {found['pin_dir']}: {sizes}")
    return lines


def limit_lines(found: "XdpStatus") -> list[str]:
    """Limits in force and why."""
    return _limits_of(jsonable(found))


def _limits_of(found: dict[str, Any]) -> list[str]:
    age, allowed = found["heartbeat_age_s"], format_duration(found["heartbeat_s"])
    if age is None:
        why = "given at load; no set-points yet"
    elif found["fresh"]:
        why = f"the controller's; heartbeat {format_duration(age)} old"
    else:
        why = f"given at load: the controller's heartbeat is {format_duration(age)} old, more than {allowed}"
    limits, source = found["in_force"], found["source_limit"]
    prefixes = f"IPv4 /{source['ipv4_prefix']}, IPv6 /{source['ipv6_prefix']}"
    return [
        f"all together {_rate(limits['rate_per_s'], limits['burst'])} ({why})",
        f"each device  {_rate(limits['device_rate'], limits['device_burst'])}",
        f"each source  {_rate(source['rate_per_s'], source['burst'])} ({prefixes})",
    ]


def _allowed(prefixes: list[str]) -> str:
    more = f" and {len(prefixes) - 8:,} more (`klais xdp allow-source` lists them)" if len(prefixes) > 8 else ""
    return f"only {', '.join(prefixes[:8])}{more}" if prefixes else "all may send"


def _blocked(blocks: list[dict[str, Any]]) -> str:
    shown = ", ".join(f"{block['prefix']} ({block['dropped']:,} packets dropped)" for block in blocks[:8])
    more = f" and {len(blocks) - 8:,} more (`klais sources blocked` lists them)" if len(blocks) > 8 else ""
    return f"{shown}{more}" if blocks else "no source"


def _rate(rate: float | None, burst: float | None) -> str:
    return "no limit" if rate is None else f"{rate:,.10g} frames/s, burst {burst or 0:,.10g}"


def stats(maps: "XdpMaps", last: Any, past_s: float, as_json: bool) -> dict[str, tuple[int, int]]:
    """Print counts by verdict and return them."""
    counts = maps.counts()
    if as_json:
        say_json({name: {"packets": p, "bytes": b} for name, (p, b) in counts.items()})
        return counts
    lines = [f"{'verdict':22}{'packets':>16}{'bytes':>20}" + (f"{'packets/s':>14}" if last else "")]
    for name, (packets, size) in counts.items():
        if packets or not name.startswith("would_"):
            rate = f"{(packets - last[name][0]) / past_s:>14,.0f}" if last else ""
            lines.append(f"{name:22}{packets:>16,}{size:>20,}{rate}")
    packets, size = (sum(part) for part in zip(*counts.values(), strict=True))
    lines.append(f"{'all':22}{packets:>16,}{size:>20,}")
    say(*lines)
    return counts


def top(maps: "XdpMaps", count: int, by: str, last: Any, past_s: float, as_json: bool) -> dict[bytes, tuple[int, int]]:
    """Print the devices with the most frames; returns (passed, dropped) of all by id."""
    from klais.xdp.device_id import readable
    from klais.xdp.layout import DEVICE_COST

    rows = _all_rows(maps)
    ids = [row.tobytes() for row in rows["id"]] if len(rows) else []
    now = {key: (int(p), int(d)) for key, p, d in zip(ids, rows["passed"], rows["dropped"], strict=True)}
    before = last or {}
    since = {key: _since(before.get(key, (0, 0)), counted) for key, counted in now.items()}
    place = 1 if by == "dropped" else 0
    tokens = dict(zip(ids, rows["credit_units"] / DEVICE_COST, strict=True))
    best = sorted((key for key in since if since[key][place] > 0), key=lambda key: -since[key][place])[:count]
    if as_json:
        found = [
            {"device_id": readable(k), "passed": since[k][0], "dropped": since[k][1], "tokens": float(tokens[k])}
            for k in best
        ]
        say_json({"devices": len(now), "top": found})
        return now
    unit = "/s" if last else ""
    scale = past_s if last else 1
    lines = [f"{'device':18}{'passed' + unit:>16}{'dropped' + unit:>16}{'tokens':>14}   ({len(now):,} devices known)"]
    for key in best:
        passed, dropped = (part / scale for part in since[key])
        lines.append(f"{escape(readable(key)):18}{passed:>16,.0f}{dropped:>16,.0f}{tokens[key]:>14,.1f}")
    say(*(lines if best else [*lines, f"none with {by} frames" + (" in this interval" if last else "")]))
    return now


def _since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    """(passed, dropped) since ``before``; ``passed`` is modulo 2^32. A device forgotten in between starts at 0."""
    passed = (now[0] - before[0]) % (1 << 32)
    if now[1] < before[1] or passed >= 1 << 31:
        return now
    return passed, now[1] - before[1]


def _all_rows(maps: "XdpMaps") -> Any:
    from klais.xdp.table import DEVICE

    parts = [part.copy() for part in maps.device_rows()]
    return np.concatenate(parts) if parts else np.zeros(0, DEVICE)


def public(rule: "Rule") -> dict[str, Any]:
    """A rule as JSON; ``..._for_s`` null for an entry in force = without end."""
    found: dict[str, Any] = jsonable(rule)
    return found | {"blocked": rule.blocked_for_s is not None, "allowed": rule.allowed_for_s is not None}


def rule_line(rule: "Rule") -> str:
    """A rule as text."""
    parts = []
    for name, left_s in (("blocked", rule.blocked_for_s), ("allowed", rule.allowed_for_s)):
        if left_s is not None:
            parts.append(
                f"{name}, until removed" if math.isinf(left_s) else f"{name} for another {format_duration(left_s)}"
            )
    if rule.blocked_for_s is not None:
        parts.append(f"{rule.dropped:,} packets dropped")
    if rule.rate_per_s is not None:
        parts.append(_rate(rule.rate_per_s, rule.burst))
    return f"{escape(rule.device_id):18}{'; '.join(parts)}"
