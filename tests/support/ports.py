"""Ports that no other test process uses: each has a lock file for the life of the requesting process."""

import fcntl
import os
import tempfile
from pathlib import Path

from klais.system import ports
from klais.system.ports import SERVER_PORTS, Kind

_FOLDER = Path(tempfile.gettempdir()) / f"klais-test-ports-{os.getuid()}"
# Not the range of the processes under test (they use no locks), nor that of outgoing connections.
TEST_PORTS = range(SERVER_PORTS.stop, 32_000)
_held: list[int] = []  # open lock files; the kernel releases them when this process ends, however it ends


def free_port(host: str = "127.0.0.1", kind: Kind = "tcp") -> int:
    """A port that is free now and that no other test process gets while this one runs.

    `klais.system.ports.free_port` only knows that a port was free a moment ago. Tests run side by side, and a test that
    restarts a server needs its port for longer than a moment.
    """
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    for _ in range(1000):
        port = ports.free_port(host, kind, TEST_PORTS)
        lock = os.open(_FOLDER / f"{kind}-{port}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        _held.append(lock)
        return port
    raise AssertionError("1000 ports in a row belong to other test processes")
