"""Import much at once, at the start of a process, without work that only imports cause."""

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def large_imports() -> Iterator[None]:
    """Leave out the garbage collector, which finds next to nothing, and the certificates that aiohttp would read.

    aiohttp makes a TLS context for its client when it is imported, and reads all authorities that this machine trusts
    for it: 40 ms and 2 MB. The only use of that client (``klais/worker/web/peers.py``) speaks plain HTTP. Imported
    here, aiohttp trusts no authority: a client that did speak TLS without a context of its own would refuse each
    server.
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
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it demands a certificate and checks the name
