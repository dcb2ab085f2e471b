"""A broker with a second, authenticated listener, for tests of TLS, SASL and access rights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from klais.broker import config as broker_config
from klais.broker import embedded
from klais.config.load import Settings
from tests.support.ports import free_port


@contextmanager
def broker_with_listener(folder: Path, protocol: str, properties: Sequence[str]) -> Iterator[tuple[Settings, str]]:
    """Settings of the plain listener (its users are ANONYMOUS), and the address of a listener with ``protocol``."""
    port, patch = free_port(), pytest.MonkeyPatch()

    def with_listener(settings: Settings, files: Any, controller_port: int) -> str:
        out = []
        for line in broker_config.server_properties(settings, files, controller_port).splitlines():
            name = line.partition("=")[0]
            if name in ("listeners", "advertised.listeners"):
                line += f",{protocol}://127.0.0.1:{port}"
            out.append(line + f",{protocol}:{protocol}" if name == "listener.security.protocol.map" else line)
        return "\n".join([*out, *properties]) + "\n"

    patch.setattr(embedded, "server_properties", with_listener)
    plain = Settings(state_dir=folder, kafka_port=free_port(), kafka_heap_mb=256)
    broker = embedded.EmbeddedKafka(plain, command="pytest")
    try:
        broker.start()
        yield plain, f"127.0.0.1:{port}"
    finally:
        broker.stop()
        patch.undo()
