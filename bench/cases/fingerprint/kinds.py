"""Types of simulated devices: payloads like those of Zigbee2MQTT, Tasmota, Shelly, OwnTracks, LoRa.

Each value is a range from which a device draws its level, with its noise; ``optional`` fields are in some frames.
``DEVELOPMENT`` was used to build the detector, ``HELD_OUT`` only to evaluate it.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Range = tuple[float, float, float, int]  # lowest and highest level of a device, noise, digits after the point


@dataclass(frozen=True, slots=True)
class Kind:
    """``interval_s``: lowest and highest of a device; ``jitter`` (relative); ``bursty``: sends on events."""

    name: str
    interval_s: tuple[float, float]
    fields: dict[str, Range]
    text: dict[str, tuple[str, ...]] = field(default_factory=dict)
    optional: dict[str, float] = field(default_factory=dict)
    jitter: float = 0.02
    bursty: bool = False


_BATTERY: Range = (20, 100, 0.2, 0)
_LINK: Range = (30, 220, 8, 0)
DEVELOPMENT = (
    Kind("thermostat", (55, 65), {
        "local_temperature": (17, 23, 0.3, 1), "current_heating_setpoint": (16, 22, 0.0, 1), "battery": _BATTERY,
        "linkquality": _LINK, "pi_heating_demand": (0, 100, 8, 0)}, {"system_mode": ("heat", "off", "auto")}),
    Kind("camera", (4, 6), {
        "fps": (10, 30, 0.5, 1), "bitrate_kbps": (800, 4000, 120, 0), "frames_dropped": (0, 5, 2, 0),
        "temperature": (35, 60, 1, 1)}, {"stream": ("main", "sub")}, {"motion_score": 0.2}),
    Kind("power meter", (9, 11), {
        "ENERGY.Total": (100, 9000, 0.5, 3), "ENERGY.Today": (0.1, 9, 0.1, 3), "ENERGY.Power": (0, 2500, 60, 0),
        "ENERGY.ApparentPower": (0, 2600, 60, 0), "ENERGY.Factor": (0.4, 1, 0.02, 2),
        "ENERGY.Voltage": (225, 238, 1, 0), "ENERGY.Current": (0, 11, 0.3, 3)}, {"Time": ("2026-03-01T10:00:00",)}),
    Kind("tracker", (10, 30), {
        "lat": (47, 55, 0.01, 6), "lon": (6, 15, 0.01, 6), "acc": (3, 40, 5, 0), "alt": (10, 600, 3, 0),
        "batt": _BATTERY, "tst": (1.7e9, 1.7e9, 1e5, 0)}, {"_type": ("location",)}, {"vel": 0.4, "cog": 0.4}, 0.2),
    Kind("soil probe", (600, 900), {
        "soil_moisture": (10, 60, 0.5, 1), "soil_temp": (4, 20, 0.2, 1), "ec": (80, 900, 10, 0),
        "battery_v": (3.2, 3.7, 0.01, 2), "rssi": (-120, -70, 4, 0), "snr": (-12, 9, 2, 1)}, {}, {}, 0.05),
    Kind("air monitor", (30, 60), {
        "co2": (420, 1400, 20, 0), "temperature": (18, 26, 0.2, 1), "humidity": (25, 65, 0.8, 1), "pm25": (1, 40, 2, 0),
        "voc": (20, 400, 10, 0)}),
    Kind("door contact", (300, 1200), {"battery": _BATTERY, "linkquality": _LINK, "voltage": (2800, 3100, 5, 0)},
         {"contact": ("open", "closed"), "tamper": ("no",)}, {}, 1.0, True),
    Kind("motor", (1, 2), {
        "rpm": (700, 2900, 12, 0), "vib_x": (0.1, 2, 0.1, 3), "vib_y": (0.1, 2, 0.1, 3), "vib_z": (0.1, 2, 0.1, 3),
        "bearing_temp": (40, 75, 0.5, 1)}),
    Kind("charger", (15, 20), {
        "soc": (10, 95, 0.4, 1), "power_kw": (0, 22, 0.4, 2), "energy_kwh": (0, 80, 0.3, 2),
        "current_l1": (0, 32, 1, 1), "current_l2": (0, 32, 1, 1), "current_l3": (0, 32, 1, 1)},
        {"status": ("Charging", "Available")}),
    Kind("water meter", (900, 1800), {"volume_l": (1e3, 9e5, 40, 0), "flow_lph": (0, 900, 60, 0), "battery": _BATTERY},
         {}, {"leak_minutes": 0.1}, 0.05),
    Kind("weather station", (60, 60), {
        "temperature": (-5, 30, 0.4, 1), "humidity": (30, 95, 2, 0), "pressure": (985, 1030, 0.5, 1),
        "wind_speed": (0, 12, 1.5, 1), "wind_dir": (0, 360, 30, 0), "rain_mm": (0, 4, 0.2, 1), "uv": (0, 8, 0.4, 1)}),
    Kind("gateway", (30, 30), {
        "cpu": (3, 80, 6, 1), "mem": (20, 80, 1, 1), "load1": (0.1, 3, 0.3, 2), "rx_bytes": (1e6, 1e9, 1e5, 0),
        "tx_bytes": (1e6, 1e9, 1e5, 0), "uptime": (1e3, 1e7, 1e4, 0)}, {"fw": ("2.4.1",)}),
    Kind("lamp", (120, 600), {"brightness": (1, 254, 20, 0), "color_temp": (150, 500, 10, 0), "linkquality": _LINK},
         {"state": ("ON", "OFF")}, {}, 0.8, True),
    Kind("thermometer", (45, 90), {"temperature": (15, 25, 0.2, 2), "humidity": (30, 60, 1, 1)}),
)  # fmt: skip
HELD_OUT = (
    Kind("heat pump", (20, 40), {
        "t_flow": (25, 55, 0.6, 1), "t_return": (20, 45, 0.6, 1), "cop": (2, 5, 0.1, 2), "compressor_hz": (0, 90, 4, 0),
        "defrost": (0, 1, 0.0, 0)}, {"mode": ("heating", "dhw", "idle")}),
    Kind("solar inverter", (5, 10), {
        "pac": (0, 8000, 150, 0), "pdc": (0, 8300, 150, 0), "vdc": (300, 700, 8, 1), "idc": (0, 14, 0.3, 2),
        "etotal": (1e3, 6e4, 1, 1), "temp": (20, 65, 0.5, 1)}),
    Kind("parking sensor", (120, 900), {"occupied": (0, 1, 0.4, 0), "magnet": (-300, 300, 12, 0),
        "batt_mv": (3300, 3600, 4, 0)},
         {}, {}, 1.0, True),
    Kind("bin level", (1800, 3600), {"fill_pct": (5, 95, 1, 0), "distance_mm": (100, 1500, 8, 0), "tilt": (0, 4, 1, 0)},
         {}, {"temp_c": 0.5}, 0.05),
    Kind("smoke detector", (600, 1200), {"smoke_density": (0, 3, 0.4, 2), "battery": _BATTERY, "linkquality": _LINK},
         {"smoke": ("clear",), "test": ("no",)}, {}, 0.05),
    Kind("plug", (10, 10), {
        "switch:0.apower": (0, 1800, 30, 1), "switch:0.voltage": (226, 238, 0.8, 1), "switch:0.current": (0, 8, 0.1, 3),
        "switch:0.aenergy.total": (10, 9e4, 1, 3)}, {"src": ("shellyplus-1",)}),
    Kind("elevator", (2, 4), {
        "floor": (0, 30, 4, 0), "load_kg": (0, 600, 90, 0), "speed": (0, 2, 0.3, 2), "trips": (1e3, 9e5, 3, 0)},
        {"door": ("open", "closed")}),
    Kind("cold store", (60, 120), {"temp_c": (-24, -16, 0.3, 2), "humidity": (40, 80, 1, 1),
        "door_open_s": (0, 60, 8, 0)}),
    Kind("pump", (5, 15), {
        "pressure_bar": (1, 9, 0.1, 2), "flow_m3h": (0, 40, 0.8, 2), "current_a": (1, 22, 0.3, 2),
        "rpm": (0, 2900, 20, 0)}),
    Kind("scooter", (5, 20), {
        "gps.lat": (48, 53, 0.01, 6), "gps.lon": (8, 14, 0.01, 6), "speed": (0, 25, 3, 1), "bat": _BATTERY,
        "odo_km": (5, 9000, 1, 1)}, {"locked": ("yes", "no")}, {"gps.hdop": 0.6}, 0.3),
    Kind("noise meter", (1, 3), {"laeq": (40, 85, 2, 1), "lmax": (50, 100, 3, 1), "l90": (30, 70, 2, 1)}),
    Kind("irrigation", (300, 600), {
        "valve": (0, 1, 0.0, 0), "flow_lpm": (0, 30, 1, 1), "zone": (1, 12, 0.0, 0), "runtime_s": (0, 900, 60, 0)},
        {"program": ("A", "B", "off")}),
    Kind("traffic counter", (60, 60), {
        "cars": (0, 90, 9, 0), "trucks": (0, 20, 3, 0), "bikes": (0, 30, 4, 0), "v85_kmh": (28, 70, 3, 1)}),
    Kind("wearable", (10, 60), {"hr": (50, 120, 6, 0), "spo2": (94, 99, 0.6, 0), "steps": (0, 2e4, 30, 0),
        "batt": _BATTERY}, {}, {"skin_temp": 0.5}, 0.2),
)  # fmt: skip


def payloads(kind: Kind, rng: np.random.Generator, count: int) -> list[bytes]:
    """``count`` payloads of one device, compact JSON."""
    levels = {name: rng.uniform(low, high) for name, (low, high, _, _) in kind.fields.items()}
    optional = {name: rng.uniform(1, 200) for name in kind.optional}
    out = []
    for _ in range(count):
        at: dict[str, Any] = {name: str(rng.choice(choices)) for name, choices in kind.text.items()}
        for name, (_, _, noise, digits) in kind.fields.items():
            _put(at, name, round(float(levels[name] + noise * rng.normal()), digits) if digits else
                 round(levels[name] + noise * rng.normal()))  # fmt: skip
        for name, share in kind.optional.items():
            if rng.random() < share:
                _put(at, name, round(float(optional[name] + rng.normal()), 1))
        out.append(json.dumps(at, separators=(",", ":")).encode())
    return out


def _put(at: dict[str, Any], path: str, value: float) -> None:
    *parents, last = path.split(".")
    for key in parents:
        at = at.setdefault(key, {})
    at[last] = value
