"""`klais kafka stop` signals only the supervisor of its own state folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from klais.broker import daemon
from klais.broker.config import BrokerFiles
from klais.broker.embedded import Owner, running_owner
from klais.config.load import Settings
from klais.errors import KafkaUnavailable, NotPrivate
from klais.system.file_lock import lock_file
from klais.system.private_files import write_own
from klais.system.processes import started_ticks


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no supervisor, although its command has the words of one."""
    code = "import time; time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", code, "kafka", "run"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("age", [0, 1])
def test_a_process_that_only_has_the_pid_gets_no_signal(
    tmp_path: Path, stranger: subprocess.Popen[bytes], age: int
) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    files = BrokerFiles(settings)
    files.make()
    lock = lock_file(files.lock, "it", 0)  # held by this process, not by the one that owner.json names
    ticks = (started_ticks(stranger.pid) or 0) - age
    owner = Owner(stranger.pid, ticks, 1, 1, "127.0.0.1:9", "4", daemon.RUN_COMMAND, True)
    write_own(files.owner, json.dumps(asdict(owner)).encode())
    assert running_owner(settings) == owner
    with pytest.raises(KafkaUnavailable, match="gets no signal"):
        daemon.stop(settings)
    assert stranger.poll() is None
    os.close(lock)


def test_an_owner_file_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    files = BrokerFiles(settings)
    files.make()
    lock = lock_file(files.lock, "it", 0)
    write_own(files.owner, b"{}")
    files.owner.chmod(0o666)
    with pytest.raises(NotPrivate, match="others can write"):
        daemon.stop(settings)
    os.close(lock)


def test_the_start_of_a_process_is_known(stranger: subprocess.Popen[bytes]) -> None:
    own, others = started_ticks(os.getpid()), started_ticks(stranger.pid)
    assert own is not None and others is not None and own <= others
    assert started_ticks(2**22 + 1) is None
