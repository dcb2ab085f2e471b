"""The application as it is declared: what Faust gets, without a broker; and the pictures at the head of its agents."""

import asyncio
import re
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator, JoinGroupRequest
from mode.utils.queues import FlowControlEvent, FlowControlQueue

from agents import controller, ingest
from agents.faust_ext import CONSUMER_SCHEME, register
from agents.faust_ext.store import Store
from agents.faust_ext.transport import Consumer, Transport
from klais.config.load import Settings
from tests.support.lanes import until

ROOT = Path(__file__).parents[2]
PAGES = ("STATS", "GRAPH", "ROUTER", "TABLES", "METRICS")
STEP = re.compile(r"^\s*\|?\s*([A-Za-z]\w*)(?:\.(\w+))?\s+((?:agents|klais)/[\w/]+\.py)", re.M)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, kafka_bootstrap="127.0.0.1:1,127.0.0.1:2", topic_prefix="t.")


async def test_no_variable_opens_pages_of_faust_or_tracebacks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust lets variables of its own win over what an application says: pages, and where Kafka is."""
    monkeypatch.setenv("KLAIS_STATE_DIR", str(settings.state_dir))
    monkeypatch.setattr("klais.telemetry.log.setup", lambda *_: None)
    for name in ("APP_DEBUG", *(f"APP_WEB_{page}_ENABLED" for page in PAGES)):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("BROKER_URL", "kafka://evil.example:9092")
    monkeypatch.setenv("WEB_BIND", "0.0.0.0")
    monkeypatch.setenv("WEB_PORT", "tcp://10.0.0.1:80")  # as Kubernetes sets it for a service called web
    app = import_module("agents.app").create_app(settings)
    opened = {name for name in dir(type(app.conf)) if name.startswith("web_") and name.endswith("_enabled")}
    assert {name for name in opened if getattr(app.conf, name)} == {"web_enabled"} and not app.conf.debug
    assert {f"web_{page.lower()}_enabled" for page in PAGES} < opened
    assert (app.conf.web_bind, app.conf.web_port) == (settings.web_bind, settings.web_port)
    assert [url.host for url in app.conf.broker] == ["127.0.0.1"] * 2


async def test_an_app_is_declared_from_settings_and_opens_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAIS_STATE_DIR", str(settings.state_dir))
    monkeypatch.setattr("klais.telemetry.log.setup", lambda *_: None)  # the logging of this process stays as it is
    # Here and not above: importing it makes an app with the settings of the environment, in the loop that runs.
    create_app = import_module("agents.app").create_app
    before = set(threading.enumerate())
    first, second = create_app(settings), create_app(settings)
    for app in (first, second):
        assert {name.rpartition(".")[2] for name in app.agents} == {"ingest", "controller"}
        assert isinstance(app.transport, Transport) and app.transport.Consumer is Consumer
        assert not isinstance(app.producer_transport, Transport), "only the consumer is ours"
        assert [str(url) for url in app.conf.broker_consumer] == ["klais://127.0.0.1:1", "klais://127.0.0.1:2"]
        assert isinstance(app.tables["devices"].data, Store)
        assert all(table.help.endswith(".") for table in app.tables.values()), "`faust tables` explains them"
        assert app.conf.consumer_metadata_max_age_ms <= 5000, "a topic that is gone is noticed within seconds"
    assert first.tables["devices"].data is not second.tables["devices"].data
    assert set(threading.enumerate()) <= before


async def test_a_worker_that_fetches_nothing_for_a_month_stays_in_the_group(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby has no partitions to fetch from. With Faust's default it would never join again after 17 minutes."""
    monkeypatch.setenv("KLAIS_STATE_DIR", str(settings.state_dir))
    monkeypatch.setattr("klais.telemetry.log.setup", lambda *_: None)
    app = import_module("agents.app").create_app(settings)
    app.finalize()
    real: Any = app.consumer._thread._create_worker_consumer(app.consumer.transport)
    real._closed = True  # it was never started
    real._subscription._last_fetch_ended -= 30 * 86_400
    left: list[str] = []

    class Member(SimpleNamespace):
        """What the coordinator of aiokafka keeps of its member, with a broker that answers three heartbeats."""

        async def ensure_coordinator_known(self) -> None: ...

        async def _do_heartbeat(self) -> bool:
            self.beats += 1
            if self.beats == 3:
                self.member_id = JoinGroupRequest.UNKNOWN_MEMBER_ID
            return True

        async def _maybe_leave_group(self) -> None:
            left.append(self.member_id)
            self.member_id = JoinGroupRequest.UNKNOWN_MEMBER_ID

    member = Member(
        member_id="m", beats=0, _heartbeat_interval_ms=1, _session_timeout_ms=60_000, _retry_backoff_ms=1,
        _subscription=real._subscription, _max_poll_interval=real._max_poll_interval_ms / 1000,
    )  # fmt: skip
    await GroupCoordinator._heartbeat_routine(member)
    assert left == [] and member.beats == 3


async def test_the_controller_agent_stands_once_for_each_candidacy() -> None:
    register()  # our consumer has no thread with a loop of its own, which nobody would close here
    app: Any = faust.App("agent", broker=f"{CONSUMER_SCHEME}://nowhere", store="memory://", autodiscover=False)
    stood: list[Any] = []

    async def run(producer: Any) -> None:
        stood.append(producer)

    fake: Any = SimpleNamespace(run=run, running=False)
    producer: Any = "the producer"
    agent: Any = controller.declare(app, fake, lambda: producer)
    async with agent.test_context() as tester:
        await tester.put(None)
        await tester.put(None)
    assert stood == ["the producer"] * 2


async def test_a_channel_that_a_rebalance_emptied_leaves_a_waiting_sender_waiting(monkeypatch: Any) -> None:
    """So a candidacy waits for room for a limited time, and the next one takes its place."""
    monkeypatch.setattr(controller, "CAST_S", 0.05)
    monkeypatch.setattr(controller, "CANDIDACY_INTERVAL_S", 0.0)
    control = FlowControlEvent()
    queue: Any = FlowControlQueue(1, flow_control=control, clear_on_resume=True)
    control.resume()
    await queue.put("first")
    waits = asyncio.create_task(queue.put("second"))
    fake: Any = SimpleNamespace(should_stop=False, running=False)
    candidate = asyncio.create_task(controller.stay_candidate(fake, fake, lambda: queue.put("candidacy")))
    await asyncio.sleep(0)
    control.suspend()
    control.resume()
    assert queue.empty()
    await asyncio.sleep(0)
    assert not waits.done()
    waits.cancel()
    await until(lambda: not queue.empty(), "a candidacy in the channel")
    candidate.cancel()


@pytest.mark.parametrize("module", [ingest, controller])
def test_each_step_of_the_picture_is_in_the_file_named_with_it(module: Any) -> None:
    steps = STEP.findall(module.__doc__)
    assert len(steps) >= 5
    for owner, method, path in steps:
        text = (ROOT / path).read_text()
        begin = re.search(rf"^(?:    )*(?:class|def|async def) {owner}\b", text, re.M)
        assert begin, f"{path} has no {owner}"
        body = re.split(r"^class ", text[begin.end() :], maxsplit=1, flags=re.M)[0]
        found = not method or re.search(rf"^    (?:async )?def {method}\b", body, re.M)
        assert found, f"{path}: {owner} has no {method}"
