"""Names of device types from the fields that they send, such as ``thermostat`` or ``lux+motion``."""

import re
from collections.abc import Collection, Sequence

from klais.core.fingerprint.typed import UNKNOWN_NAME
from klais.fingerprint.model import MAX_NAME_BYTES

# The first match decides: words sent by only one kind of device come before words that many send.
WORDS = (
    ("thermostat", r"setpoint|heating|valve"),
    ("camera", r"fps|bitrate|frames?_?(dropped|rate)|iso\b|exposure"),
    ("charger", r"\bsoc\b|charg(e|ing)(_|$)|evse|plug"),
    ("solar inverter", r"pv_|\bpac\b|\bpdc\b|\bvdc\b|inverter|irradiance"),
    ("power meter", r"apparentpower|kwh|power_?factor|active_?power|\benergy\b"),
    ("tracker", r"\blat(itude)?\b|\blon(gitude)?\b|heading"),
    ("soil probe", r"soil|\bec\b|leaf"),
    ("air monitor", r"co2|pm_?2_?5|pm10|\bvoc\b|tvoc"),
    ("weather station", r"wind|rain|\buv\b"),
    ("motor", r"\brpm\b|vib|torque|bearing"),
    ("water meter", r"volume|flow|litres?|\bm3\b"),
    ("smoke detector", r"smoke|\bco_ppm\b"),
    ("lamp", r"brightness|color_?temp|dimmer"),
    ("parking sensor", r"occupied|parking"),
    ("level sensor", r"fill|distance|level"),
    ("fridge", r"compressor|defrost|evaporator"),
    ("gateway", r"\bcpu\b|load1|rx_bytes|tx_bytes|mem(ory)?\b"),
    ("motion sensor", r"motion|occupancy|illuminance|\blux\b"),
    ("door contact", r"contact|\bopen"),
    ("thermometer", r"temp"),
)


def name_types(fields: Sequence[Sequence[str]], taken: Collection[str] = ()) -> list[str]:
    """A name for each type from its most distinctive fields; all names differ from each other and from ``taken``.

    Examples
    --------
    >>> name_types([["setpoint", "t"], ["fps"], ["fps", "zoom"], ["x", "y"], []])
    ['thermostat', 'camera', 'camera (zoom)', 'x+y', 'type 5']
    """
    out: list[str] = []
    taken = {*taken, UNKNOWN_NAME}
    for at, names in enumerate(fields):
        base = next((word for word, pattern in WORDS if any(_matches(pattern, name) for name in names)), "")
        base = base or _cut("+".join(names[:3]), MAX_NAME_BYTES) or f"type {at + 1}"
        chosen = base
        if chosen in out or chosen in taken:
            others = {name for k, other in enumerate(fields) if k != at for name in other}
            own = next((name for name in names if name not in others), "")
            chosen = f"{_cut(base, MAX_NAME_BYTES - 20)} ({_cut(own, 16)})" if own else base
        number = 2
        while chosen in out or chosen in taken:
            chosen, number = f"{_cut(base, MAX_NAME_BYTES - 4)} {number}", number + 1
        out.append(chosen)
    return out


def _cut(name: str, max_bytes: int) -> str:
    """Cut a name to at most ``max_bytes`` bytes."""
    return name.encode()[:max_bytes].decode(errors="ignore")


def _matches(pattern: str, name: str) -> bool:
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    return re.search(pattern, words) is not None or re.search(pattern, re.sub(r"[_.\-]+", " ", words)) is not None
