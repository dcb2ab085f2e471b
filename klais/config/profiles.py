"""Profiles: named systems that a user works with, in a file of that user.

A profile contains the address of a system and your credentials, not its behaviour. An active profile is the only source
of these settings: those that it omits are unset, so that no token or broker of another system is used with it.
"""

import os
from pathlib import Path

from klais.config.origins import Given
from klais.config.toml_file import read_keys, read_toml
from klais.errors import ConfigError

KEYS = {
    "bootstrap": "kafka_bootstrap",
    "security_protocol": "kafka_security_protocol",
    "sasl_mechanism": "kafka_sasl_mechanism",
    "sasl_username": "kafka_sasl_username",
    "sasl_password_file": "kafka_sasl_password_file",
    "ssl_cafile": "kafka_ssl_cafile",
    "ssl_certfile": "kafka_ssl_certfile",
    "ssl_keyfile": "kafka_ssl_keyfile",
    "ssl_keyfile_password_file": "kafka_ssl_keyfile_password_file",
    "topic_prefix": "topic_prefix",
    "topic": "kafka_topic",
    "partitions": "partitions",
    "worker_url": "web_url",
    "edge_url": "api_url",
    "token_file": "api_token_file",
    "read_token_file": "api_read_token_file",
}
"""Key of a profile -> setting."""
REQUIRED = ("bootstrap", "worker_url")
DISPLACED = frozenset(KEYS.values()) | {name.removesuffix("_file") for name in KEYS.values() if name.endswith("_file")}
"""Settings that only a profile sets while one is active."""


def profiles_file() -> Path:
    """``~/.config/klais/profiles.toml``, or below ``$XDG_CONFIG_HOME``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "klais" / "profiles.toml"


def names() -> list[str]:
    """Names of the profiles, in file order; empty without a file."""
    path = profiles_file()
    return [name for name, value in read_toml(path)[0].items() if isinstance(value, dict)] if path.exists() else []


def read_profile(name: str) -> tuple[dict[str, Given], list[str]]:
    """The settings of a profile, and its problems: unknown keys, or missing addresses.

    Raises
    ------
    klais.errors.ConfigError
        If there is no such profile, or the file cannot be used.
    """
    path = profiles_file()
    if not path.exists():
        raise ConfigError(
            f"there is no profile {name!r}: {path} does not exist. Write [{name}] and {_REQUIRED_TEXT} into it"
        )
    found, problems = read_keys(path, name, KEYS, "profile")
    missing = [key for key in REQUIRED if KEYS[key] not in found]
    if missing:
        problems.append(f"{path}: the profile {name!r} lacks {' and '.join(missing)}: it must have {_REQUIRED_TEXT}")
    return found, problems


_REQUIRED_TEXT = " and ".join(REQUIRED)
