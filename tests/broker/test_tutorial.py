"""docs/tutorial.md, run as a reader would: a system of its own, every command of the page, and the output it promises.

A system with a broker of its own takes a minute to come and go, so it is part of `make release-test`.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.test_up import Place
from tests.support.needs import need_missing
from tests.support.process import PATIENCE, clean_environ, exit_code, wait_for
from tests.unit.docs.test_tutorial import STEPS, Step

DEFAULTS = ("KLAIS_STATE_DIR", "KLAIS_KAFKA_PORT", "KLAIS_WEB_PORT", "KLAIS_API_BIND", "KLAIS_UDP_BIND")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """What the page starts in the first terminal."""
    if os.environ.get("KLAIS_TEST_TUTORIAL") != "1":
        need_missing("tutorial", "set KLAIS_TEST_TUTORIAL=1")
    place = Place(tmp_path_factory.mktemp("tutorial"))
    place.env = clean_environ() | {name: place.env[name] for name in DEFAULTS}
    place.env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = place.up("--no-simulate", "--plain")
    try:
        wait_for(lambda: "\nready\n" in place.text() or process.poll() is not None, 90, place.text)
        yield place
        process.send_signal(signal.SIGINT)
        assert exit_code(process, 60, place.text) == 0, place.text()
    finally:
        process.kill()


def test_every_step_does_what_the_page_says(system: Place) -> None:
    for step in STEPS:
        said: list[str] = []

        def answered(step: Step = step, said: list[str] = said) -> bool:
            """Run the step; its last command again until a frame that is on its way has arrived."""
            commands = [step.commands[-1]] if said else step.commands
            for command in commands:
                ran = subprocess.run(
                    ["bash", "-c", command], env=system.env, capture_output=True, text=True, timeout=60 * PATIENCE
                )
                said[:] = [ran.stdout + ran.stderr]
                if ran.returncode:
                    return False
            return step.missing(said[0]) == []

        wait_for(answered, 30, lambda step=step, said=said: f"{step}\n{said}\n{step.missing(said[0])}", every_s=0.3)
