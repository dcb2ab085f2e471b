"""The filter's part of authenticated frames: its map of keys, which only root can read (without numba)."""

import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.config.auth_keys import KEYS_FILE, read_key_ring
from klais.config.settings import SettingsFields
from klais.errors import ConfigError
from klais.xdp import bpf
from klais.xdp.layout import AUTH, GENERATIONS, GLOBAL_COST, AuthMode
from klais.xdp.limits import from_units, to_units

STATES = {"off": AuthMode(0), "pass": AuthMode.KNOW, "on": AuthMode.KNOW | AuthMode.CHECK}
UNVERIFIED_BURST_S = 0.1  # at the rate of unverified frames


@dataclass(frozen=True, slots=True)
class AuthStatus:
    """How the filter treats signed frames; ``generations`` of its keys, ``unverified_rate`` in frames/s."""

    state: str
    require: bool
    generations: tuple[int, ...]
    max_bytes: int
    unverified_rate: float | None


def filter_auth(
    mode: AuthMode, masters: Mapping[int, bytes], max_bytes: int, unverified_rate: float
) -> npt.NDArray[np.void]:
    """A ``struct klais_auth``.

    Parameters
    ----------
    masters : mapping
        K_master by generation.
    max_bytes : int
        Longer signed frames pass unchecked.
    unverified_rate : float
        Frames/s of all signed frames that the filter cannot check, at most 1e9, because forged frames are among them.
    """
    value = np.zeros((), AUTH)
    value["mode"], value["max_bytes"] = int(mode), max_bytes
    rate = min(unverified_rate, 1e9)
    value["unverified"] = to_units(rate, max(1.0, UNVERIFIED_BURST_S * rate), GLOBAL_COST)
    value["bucket"]["credit_units"], value["bucket"]["last_ns"] = value["unverified"]["cap_units"], time.monotonic_ns()
    for generation, key in masters.items():
        value["generations"]["key"][generation] = np.frombuffer(key, "<u8")
        value["generations"]["serial"][generation] = secrets.randbits(63) | 1  # invalidates all keys cached by CPUs
    return value


def set_auth(fd: int, state: str, settings: SettingsFields, unverified_rate: float) -> AuthMode:
    """Write the keys and the mode into the map; returns the mode.

    Raises
    ------
    ConfigError
        If the keys cannot be read, or devices have their own keys, which the filter does not know.
    """
    mode, masters = STATES[state], {}
    if state == "on":
        ring = read_key_ring(settings)
        if ring.own:
            raise ConfigError(
                f"{KEYS_FILE} names {len(ring.own)} devices, whose keys the filter does not know: it would drop their "
                "frames. Use `klais xdp auth pass`: the edge checks all of them"
            )
        masters = dict(ring.masters)
        if settings.auth == "require" and not settings.auth_exempt:
            mode |= AuthMode.REQUIRE
    bpf.update(fd, np.zeros(1, np.uint32), filter_auth(mode, masters, settings.auth_xdp_bytes, unverified_rate))
    return mode


def admit_signed(fd: int) -> None:
    """Let signed frames pass, unless the map has a stricter mode."""
    if read_auth(fd).state == "off":
        bpf.update(fd, np.zeros(1, np.uint32), filter_auth(AuthMode.KNOW, {}, 0, 1.0))


def read_auth(fd: int) -> AuthStatus:
    """The content of the map, without keys."""
    value = np.zeros((), AUTH)
    bpf.lookup(fd, np.zeros(1, np.uint32), value)
    mode = AuthMode(int(value["mode"]))
    state = next(name for name, bits in STATES.items() if bits == mode & ~AuthMode.REQUIRE)
    rate = from_units(value["unverified"], GLOBAL_COST)[0]
    return AuthStatus(
        state,
        AuthMode.REQUIRE in mode,
        tuple(g for g in range(GENERATIONS) if value["generations"][g]["serial"]),
        int(value["max_bytes"]),
        rate if math.isfinite(rate) else None,
    )
