"""Make the many imports at the start of a process cheaper."""

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def large_imports() -> Iterator[None]:
    """Disable the garbage collector, which finds next to nothing, and the certificates that aiohttp would read.

    When aiohttp is imported, it creates a TLS context for its client, and reads all authorities that this machine
    trusts for it: 40 ms and 2 MB. The only use of that client (``klais/worker/web/peers.py``) is plain HTTP. Imported
    here, aiohttp trusts no authority: a TLS client without its own context would refuse each server.
    """
    collects = gc.isenabled()
    make = ssl.create_default_context
    gc.disable()
    ssl.create_default_context = _context_without_authorities
    try:
        yield
    finally:
        ssl.create_default_context = make
        if collects:
            gc.enable()


def _context_without_authorities(*_: Any, **__: Any) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it requires a certificate and checks the name
