"""What a single setting must satisfy beyond its type (pure functions)."""

from typing import Any

from klais.system.address import HOST_NAME, is_ip, split_address


def check_address(text: str) -> str:
    """An address to listen on; port 0 lets the kernel choose."""
    split_address(text)
    return text


def check_host(text: str) -> str:
    """An IP address or host name without port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not is_ip(bare, 4) and not is_ip(bare, 6) and not HOST_NAME.match(text):
        raise ValueError("must be an IP address or a host name, without port")
    return bare


def check_servers(text: str) -> str:
    """A list of brokers ``host:port,host:port``; blanks around the commas are taken out."""
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


def lower(value: Any) -> Any:
    """Lower case, where it is text."""
    return value.lower() if isinstance(value, str) else value
