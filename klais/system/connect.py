"""TCP connections with a limit for everything, name look-ups included, and what went wrong in words."""

import socket
import threading
import time
from typing import Any

CONNECT_S = 2.0
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF_WHILE_READING")


def connect(host: str, port: int, timeout_s: float = CONNECT_S) -> socket.socket:
    """A connection that took at most ``timeout_s`` to make.

    ``socket.create_connection`` limits each of a name's addresses alone, and the look-up of the name not at all.

    Raises
    ------
    OSError
        The name does not resolve, nobody listens, or it took too long; see :func:`reason_of`.
    """
    until_s = time.monotonic() + timeout_s
    failed: Exception = TimeoutError("the name was not resolved in time")
    for family, kind, protocol, _, address in _resolve(host, port, timeout_s):
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            break
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(left_s)
            made.connect(address)
        except OSError as error:
            made.close()
            failed = error
            continue
        return made
    raise failed


def _resolve(host: str, port: int, timeout_s: float) -> list[Any]:
    """The addresses of a name; its own thread, because the C library's look-up has no limit."""
    found: list[Any] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host.encode() if host.isascii() else host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if failed:
        raise failed[0] if isinstance(failed[0], OSError) else socket.gaierror(socket.EAI_NONAME, "no such host name")
    return found


def reason_of(error: BaseException, tls: bool = False) -> str:
    """Why a server could not be reached or did not answer, for a message; ``tls`` = the connection was to be secured.

    Examples
    --------
    >>> reason_of(ConnectionRefusedError(111, "Connection refused")), reason_of(socket.gaierror(-2, "unknown"))
    ('connection refused', 'the host name does not resolve')
    """
    cause = getattr(error, "reason", None)  # of a urllib.error.URLError; an ssl.SSLError has a text there
    if isinstance(cause, Exception):
        return reason_of(cause, tls)
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionError):
        return f"it ends the connection without an answer: it may {'not speak' if tls else 'expect'} TLS"
    import ssl  # whose import is a hundredth of a second

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        no_tls = isinstance(error, ssl.SSLEOFError) or error.reason in _NO_TLS
        return "it does not speak TLS" if no_tls else f"TLS fails: {(error.reason or str(error)).lower()}"
    return str(getattr(error, "strerror", None) or error)
