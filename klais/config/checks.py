"""Checks of single settings beyond their type (pure functions)."""

import ipaddress
import re
from pathlib import Path
from typing import Any

from klais.config.secret import Secret
from klais.system.address import HOST_NAME, is_ip, split_address
from klais.system.paths import from_home
from klais.text import numbers_of

TOKEN_LENGTH = 16
_NUMBERS = re.compile(r"\d{1,3}(-\d{1,3})?(,\d{1,3}(-\d{1,3})?)*\Z", re.ASCII)


def check_address(text: str) -> str:
    """Check an address to listen on; port 0 lets the kernel choose."""
    split_address(text)
    return text


def check_host(text: str) -> str:
    """Check an IP address or host name without port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not is_ip(bare, 4) and not is_ip(bare, 6) and not HOST_NAME.match(text):
        raise ValueError("must be an IP address or a host name, without port")
    return bare


def check_servers(text: str) -> str:
    """Check a list of brokers ``host:port,host:port``; spaces around the commas are removed."""
    servers = [server.strip() for server in text.split(",") if server.strip()]
    if not servers:
        raise ValueError("must name at least one broker as host:port")
    for server in servers:
        try:
            port = split_address(server)[1]
        except ValueError as error:
            raise ValueError(f"broker {server!r}: {error}") from None
        if port == 0:
            raise ValueError(f"broker {server!r}: port 0 is not a port to connect to")
    return ",".join(servers)


def check_folder(path: Path) -> Path:
    """Check a folder or file; a leading ``~`` or ``~name`` is the home of an existing user."""
    found = from_home(str(path))
    if str(found).startswith("~"):
        raise ValueError(f"there is no user {found.parts[0][1:]!r}")
    return found


def split_list(text: str) -> list[str]:
    """Split a list at commas, without spaces and empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_hosts(text: str) -> str:
    """Check a list of host names; a leading dot means all names below it."""
    for name in split_list(text):
        if not is_ip(name, 6) and not HOST_NAME.match(name.removeprefix(".")):
            raise ValueError(f"{name!r} is not a host name (without port, as in gateway.example or .example)")
    return ",".join(split_list(text))


def check_networks(text: str) -> str:
    """Check a list of IP addresses and networks."""
    for part in split_list(text):
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise ValueError(f"{part!r} is neither an IP address nor a network, as in 10.0.0.0/8") from None
    return ",".join(split_list(text))


def check_token(token: Secret) -> Secret:
    """A bearer token long enough not to be guessed, in the characters of a header."""
    text = token.get_secret_value()
    if len(text) < TOKEN_LENGTH:
        raise ValueError(f"has fewer than {TOKEN_LENGTH} characters: make one with `openssl rand -hex 16`")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("must be printable ASCII without spaces: make one with `openssl rand -hex 16`")
    return token


def check_hash_key(key: Secret) -> Secret:
    """A secret of at least 16 characters."""
    if len(key.get_secret_value()) < TOKEN_LENGTH:
        raise ValueError("is too short")
    return key


MAX_PREFIXES = 64


def check_prefixes(text: str) -> str:
    """Check a list of prefixes of device ids ``a-,b-``; spaces around the commas are removed."""
    prefixes = [prefix.strip() for prefix in text.split(",") if prefix.strip()]
    if len(prefixes) > MAX_PREFIXES:
        raise ValueError(f"has {len(prefixes)} prefixes, at most {MAX_PREFIXES} are possible")
    for prefix in prefixes:
        if len(prefix.encode()) > 16 or "\0" in prefix:
            raise ValueError(f"{prefix!r} is not the beginning of a device_id of at most 16 bytes")
    return ",".join(prefixes)


def check_queues(text: str) -> str:
    """Check numbers of receive queues, ``0-3,8``; spaces around the commas are removed."""
    compact = ",".join(part.strip() for part in text.split(","))
    if not _NUMBERS.match(compact):
        raise ValueError(f"{text!r} is not a list of queues: write 0-3,8")
    numbers_of(compact)
    return compact


def check_url(text: str) -> str:
    """Check the address of a KLAIS server without a path; a trailing slash is removed."""
    scheme, sign, rest = text.rstrip("/").partition("://")
    if scheme not in ("http", "https") or not sign or not rest or any(mark in rest for mark in "/?#@ "):
        raise ValueError("must be an address like http://host:port, without path, user or password")
    host = rest.removeprefix("[").partition("]")[0] if rest.startswith("[") else rest.partition(":")[0]
    if not is_ip(host, 6) and not HOST_NAME.match(host):
        raise ValueError(f"{host!r} is not a host")
    return f"{scheme}://{rest}"


def check_link(text: str) -> str:
    """Check an address that a browser follows: as :func:`check_url`, but with a path and a query."""
    end = next((at for at, mark in enumerate(text) if mark in "/?#" and at >= text.find("://") + 3), len(text))
    if not re.fullmatch(r"[!-~]{1,2000}", text) or re.search(r"[\"'<>\\^`{|}]", text):
        raise ValueError("must be an address like https://host/path, in printable ASCII without spaces or quotes")
    return check_url(text[:end]) + text[end:]


def lower(value: Any) -> Any:
    """Convert text to lower case."""
    return value.lower() if isinstance(value, str) else value
