"""Logs: one event is one line, whatever its values hold."""

import json
import logging
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from klais.config.load import Settings
from klais.telemetry import log

Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What came to stderr; the root logger is put back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_text_line(written: Written) -> None:
    log.setup(Settings(), "edge")
    log.get("klais.x").info("batch_sent", partition=3, ratio=1 / 3, ok=True, why=None, who="a b", id=b"dev-1")
    head, _, rest = written().partition(" ")
    assert head.endswith("Z") and "T" in head and len(head) == len("2026-01-01T00:00:00.000Z")
    assert rest == 'INFO edge klais.x batch_sent partition=3 ratio=0.333333 ok=true why=none who="a b" id=dev-1\n'


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "nasty", ["a\nb", "\x1b[2J", "x\u2028y", "\x7f", "r\rn", 'q"\\', b"\xff\n", {"k": "\n"}, "\ud800"]
)
def test_nothing_breaks_the_line(written: Written, form: str, nasty: object) -> None:
    log.setup(Settings(log_format=form), "edge")  # type: ignore[arg-type]
    log.get("klais.x").warning("event\nforged", value=nasty)
    text = written()
    assert text.endswith("\n") and text[:-1].isprintable() and len(text.splitlines()) == 1
    text.encode()


@pytest.mark.parametrize("odd", [float("nan"), np.float32("inf"), {"k": [-np.inf]}])
def test_a_number_that_json_lacks_becomes_text(written: Written, odd: object) -> None:
    log.setup(Settings(log_format="json"), "edge")
    log.get("klais.x").info("odd", value=odd)
    row = json.loads(written(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert row["value"] in ("nan", "inf", {"k": ["-inf"]})


def test_json_line(written: Written) -> None:
    log.setup(Settings(log_format="json"), "worker")
    log.get("klais.x").error("lost", frames=np.int64(3), level="mine", error=ValueError("a\nb"))
    row = json.loads(written())
    assert row.pop("ts").endswith("Z")
    assert row == {
        "level": "error",
        "process": "worker",
        "logger": "klais.x",
        "event": "lost",
        "frames": 3,
        "level_": "mine",
        "error": "ValueError: a\nb",
    }


def test_a_traceback_is_one_field(written: Written) -> None:
    log.setup(Settings(), "edge")
    try:
        raise KeyError("x\ny")
    except KeyError:
        log.get("klais.x").exception("broken", step=1)
    (line,) = written().splitlines()
    assert "broken step=1 traceback=" in line and "KeyError" in line


def test_levels_and_libraries(written: Written) -> None:
    log.setup(Settings(log_level="info"), "edge")
    log.get("klais.x").debug("hidden")
    logging.getLogger("aiokafka.consumer").info("chatter %s", 1)
    logging.getLogger("else").info("from a %s\nlibrary", "stdlib")
    (line,) = written().splitlines()
    assert line.endswith("INFO edge else from a stdlib\\nlibrary")
    assert not log.get("klais.x").enabled(logging.DEBUG)


def test_secrets_of_settings_stay_masked(written: Written) -> None:
    settings = Settings(api_token="hunter2hunter2hunter2")
    log.setup(settings, "edge")
    log.get("klais.x").info("settings", all=settings, token=settings.api_token)
    assert "hunter2" not in written()


def test_every_counts_the_suppressed_calls() -> None:
    times = [0.0, 1.0, 9.9, 10.0, 10.5, 25.0]
    assert [log.every(10, "test_every", now_s=now) for now in times] == [1, 0, 0, 3, 0, 2]
    assert log.every(10, "test_every_other", now_s=10.5) == 1


def test_the_level_changes_while_the_process_runs() -> None:
    root, chatty = logging.getLogger(), logging.getLogger("aiokafka")
    before = root.level, chatty.level
    try:
        log.set_level(Settings(log_level="error"))
        assert (root.level, chatty.level) == (logging.ERROR, logging.WARNING)
        log.set_level(Settings(log_level="debug"))
        assert (root.level, chatty.level) == (logging.DEBUG, logging.DEBUG)
    finally:
        root.setLevel(before[0])
        chatty.setLevel(before[1])
