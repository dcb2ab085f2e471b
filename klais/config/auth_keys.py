"""Key files of authenticated frames: one file of key generations, and one of devices with their own keys.

``KLAIS_AUTH_KEY_FILE`` has one line per generation: its number (0 to 3), a space, and either the secret in hex (32
bytes or more) or K_master (16 bytes), so that an edge never holds the secret. Empty lines and lines with ``#`` are
ignored. ``KLAIS_AUTH_KEYS_FILE`` is a JSON object: device_id -> key of 16 bytes in hex, or null for a device with a
revoked key.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klais.config.secret_file import read_secret
from klais.config.settings import SettingsFields
from klais.core.wire.constants import ID_SIZE, is_device_id
from klais.core.wire.signing import GENERATIONS, KEY_SIZE, MIN_SECRET_BYTES, device_key, master_key
from klais.errors import ConfigError

KEY_FILE, KEYS_FILE = "KLAIS_AUTH_KEY_FILE", "KLAIS_AUTH_KEYS_FILE"
MAX_KEYS_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class KeyRing:
    """``masters``: generation -> K_master; ``own``: unpadded device_id -> its own key, None = revoked."""

    masters: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    own: Mapping[bytes, bytes | None] = field(default_factory=dict, repr=False)

    @property
    def newest(self) -> int:
        """The generation that was added last, whose successor is not installed."""
        return next((g for g in self.masters if (g + 1) % GENERATIONS not in self.masters), max(self.masters))

    def key(self, device_id: bytes, generation: int) -> bytes:
        """Key of a device.

        Raises
        ------
        ConfigError
            If the key is revoked, or no key of this generation is installed.
        """
        if device_id in self.own:
            if (key := self.own[device_id]) is None:
                raise ConfigError(f"the key of {device_id.decode(errors='replace')!r} is revoked by {KEYS_FILE}")
            return key
        if generation not in self.masters:
            raise ConfigError(f"{KEY_FILE} has no generation {generation}: it has {sorted(self.masters) or 'none'}")
        return device_key(self.masters[generation], device_id)


def read_key_ring(settings: SettingsFields) -> KeyRing:
    """Read the keys from the files in the settings.

    Raises
    ------
    ConfigError
        If no file is set, a file cannot be read, other users could read it, or its format is invalid.
    """
    if settings.auth_key_file is None and settings.auth_keys_file is None:
        raise ConfigError(f"authenticated frames need keys: name a file with {KEY_FILE} (`klais auth new` makes one)")
    masters = {} if settings.auth_key_file is None else read_masters(settings.auth_key_file)
    own = {} if settings.auth_keys_file is None else read_own_keys(settings.auth_keys_file)
    return KeyRing(masters, own)


def read_lines(path: Path) -> dict[int, bytes]:
    """Secrets and master keys of a file by generation, in file order.

    Raises
    ------
    ConfigError
        See :func:`read_key_ring`. No message quotes a key.
    """
    found: dict[int, bytes] = {}
    for number, line in enumerate(read_secret(path, KEY_FILE).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{KEY_FILE}={path}, line {number}"
        if len(words) != 2 or words[0] not in map(str, range(GENERATIONS)):
            raise ConfigError(f"{where}: must be a generation (0 to {GENERATIONS - 1}) and a secret in hex")
        generation = int(words[0])
        if generation in found:
            raise ConfigError(f"{where}: duplicate generation {generation}")
        found[generation] = _hex(words[1], where)
        if len(found[generation]) != KEY_SIZE and len(found[generation]) < MIN_SECRET_BYTES:
            size = len(found[generation])
            raise ConfigError(
                f"{where}: {size} bytes are neither K_master ({KEY_SIZE}) nor a secret ({MIN_SECRET_BYTES}+)"
            )
    return found


def read_masters(path: Path) -> dict[int, bytes]:
    """K_master of each generation in a file.

    Raises
    ------
    ConfigError
        See :func:`read_key_ring`.
    """
    lines = read_lines(path)
    return {g: key if len(key) == KEY_SIZE else master_key(key, g) for g, key in lines.items()}


def read_own_keys(path: Path) -> dict[bytes, bytes | None]:
    """Keys of devices that have their own.

    Raises
    ------
    ConfigError
        See :func:`read_key_ring`.
    """
    where = f"{KEYS_FILE}={path}"
    try:
        pairs = json.loads(read_secret(path, KEYS_FILE, MAX_KEYS_BYTES), object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where}: is not JSON") from None
    if not isinstance(pairs, _Members):
        raise ConfigError(f"{where}: is not a JSON object of device_id: key")
    out: dict[bytes, bytes | None] = {}
    for name, key in pairs:
        device_id = name.encode("utf-8", "surrogatepass")
        if not is_device_id(device_id):
            raise ConfigError(f"{where}: {name!r} is not a device_id of 1 to {ID_SIZE} bytes")
        if key is not None and (not isinstance(key, str) or len(_hex(key, where)) != KEY_SIZE):
            raise ConfigError(f"{where}: the key of {name!r} is neither {KEY_SIZE} bytes in hex nor null")
        if device_id in out:  # one of two entries may revoke the key of the other
            raise ConfigError(f"{where}: duplicate device_id {name!r}")
        out[device_id] = None if key is None else bytes.fromhex(key)
    return out


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, including duplicate names."""


def _hex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{where}: a key is not hex") from None
