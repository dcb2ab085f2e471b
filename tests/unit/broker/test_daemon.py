"""`klais kafka start` while the broker runs."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from klais.broker import daemon
from klais.broker.config import BrokerFiles
from klais.broker.embedded import Owner
from klais.config.load import Settings

OWNER = Owner(os.getpid(), 0, os.getpid(), 0, "127.0.0.1:9092", "4", daemon.RUN_COMMAND, ready=True)


@pytest.mark.parametrize("ready", [True, False])
def test_the_log_of_a_running_supervisor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: bool) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    files = BrokerFiles(settings)
    files.make()
    files.supervisor_log.write_text("Apache Kafka: starting\n")
    files.supervisor_log.chmod(0o600)
    owners = iter([replace(OWNER, ready=ready), OWNER, OWNER])
    monkeypatch.setattr(daemon, "running_owner", lambda _: next(owners))
    said: list[str] = []
    assert daemon.start(settings, said.append).ready
    assert files.supervisor_log.read_text() == "Apache Kafka: starting\n"
    assert said == ([] if ready else ["Apache Kafka: starting"])
