"""What the tests share: a marker per tier, hypothesis's profiles, a real Apache Kafka for the session, and settings."""

import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from klais.config.load import Settings
from klais.kafka.topics import Topics
from klais.system.shared_clock import shared
from tests.support.examples import examples
from tests.support.needs import need_missing
from tests.support.ports import free_port

TESTS = Path(__file__).parent
_numbers = itertools.count(1)

# A developer's own settings must not change what the tests see, nor reach a process that a test starts.
_OURS = ("KLAIS_REQUIRE", "KLAIS_FAULT_ROUNDS", "KLAIS_CACHE_DIR", "KLAIS_JIT")
for _name in [name for name in os.environ if name.startswith("KLAIS_")]:
    if _name not in _OURS and not _name.startswith("KLAIS_TEST_"):
        del os.environ[_name]


# No test may fail because a machine is slow: no deadline for an example, and no complaint that making one took long.
# `make test` runs the same examples everywhere (derived from each test's own code), so that it fails for a change and
# not by chance. `make release-test` looks for new ones (KLAIS_TEST_SEARCH=1) and keeps what failed in .hypothesis.
_ANY_SPEED: dict[str, Any] = {
    "max_examples": examples(100),
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": True,
}
hypothesis_settings.register_profile("same", derandomize=True, database=None, **_ANY_SPEED)
hypothesis_settings.register_profile("search", **_ANY_SPEED)
hypothesis_settings.load_profile("search" if os.environ.get("KLAIS_TEST_SEARCH") == "1" else "same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier: the folder under tests/ that it is in, as in ``pytest -m "unit or property"``."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            item.add_marker(item.path.relative_to(TESTS).parts[0])


@pytest.fixture(autouse=True)
def no_broker_heard() -> None:
    """Broker times that a test made up must not move the clock of the next one."""
    shared.forget()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of an Apache Kafka: the one that KLAIS_TEST_KAFKA names, else one of this session's own."""
    named = os.environ.get("KLAIS_TEST_KAFKA")
    if named:
        yield named
        return
    from klais.broker.embedded import EmbeddedKafka
    from klais.errors import KafkaUnavailable, PortInUse, SetupMissing

    folder = Path(tempfile.mkdtemp(prefix="klais-kafka-"))
    broker = None
    try:
        for attempt in range(3):
            settings = Settings(state_dir=folder, kafka_port=free_port(), kafka_heap_mb=512)
            broker = EmbeddedKafka(settings, command="pytest")
            try:
                broker.start()
                break
            except SetupMissing as error:
                need_missing("broker", str(error))
            except (PortInUse, KafkaUnavailable):  # somebody took one of its free ports meanwhile
                if attempt == 2:
                    raise
        yield broker.bootstrap
    finally:
        if broker is not None:
            broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings_for(kafka: str, tmp_path: Path) -> Callable[..., Settings]:
    """Factory of settings on the session's broker: each call has a topic prefix of its own; overrides as keywords."""

    def make(**overrides: Any) -> Settings:
        prefix = f"t{next(_numbers)}-{uuid.uuid4().hex[:8]}-"
        given: dict[str, Any] = {"topic_prefix": prefix, "kafka_bootstrap": kafka, "state_dir": tmp_path / "state"}
        given["xdp_pin_dir"] = Path(f"/sys/fs/bpf/{prefix}none")  # not the filter that this machine may have
        return Settings(**(given | overrides))

    return make


@pytest.fixture
def topics_of() -> Callable[[Settings], Topics]:
    """``topics_of(settings)`` creates the topics of these settings and returns their names."""

    def make(settings: Settings) -> Topics:
        from klais.kafka.admin import ensure_topics

        ensure_topics(settings)
        return Topics.of(settings)

    return make
