"""The tutorial, run as a reader would: a system of its own, every command of a page, and the output it promises.

A system with a broker of its own takes a minute to come and go, so it is part of `make release-test`.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broker.test_up import REPO, Place
from tests.support.needs import need_command, need_missing
from tests.support.ports import free_port
from tests.support.process import PATIENCE, clean_environ, exit_code, kill_hard, wait_for
from tests.unit.docs.test_tutorial import PAGES, Step, steps

DEFAULTS = ("KLAIS_STATE_DIR", "KLAIS_KAFKA_PORT", "KLAIS_WEB_PORT", "KLAIS_API_BIND", "KLAIS_UDP_BIND")
FIRST, SECOND = PAGES
SCRAPED = REPO / "deploy" / "prometheus"


class Reader(Place):
    """Somebody who follows a page with ports and a folder of their own, in place of the defaults."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env = clean_environ() | {name: self.env[name] for name in DEFAULTS}
        self.env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ports = {8080: self.tcp["API"], 6066: self.tcp["WEB_PORT"], 9092: self.tcp["KAFKA_PORT"], 9090: free_port()}
        self.instead = {f"127.0.0.1:{port}": f"127.0.0.1:{own}" for port, own in ports.items()}

    def own(self, text: str) -> str:
        """The text with their own addresses."""
        return re.sub("|".join(self.instead), lambda found: self.instead[found[0]], text)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the page."""
        words = ["bash", "-c", self.own(command)]
        return subprocess.run(
            words, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=60 * PATIENCE
        )

    def follow(self, page: Path) -> None:
        """Run every step, the last command of each until its output is what the page promises."""
        for step in steps(page.read_text()):
            said: list[str] = []

            def answered(step: Step = step, said: list[str] = said) -> bool:
                for command in [step.commands[-1]] if said else step.commands:
                    ran = self.run(command)
                    said[:] = [ran.stdout + ran.stderr]
                    if ran.returncode:
                        return False
                return step.missing(said[0]) == []

            wait_for(answered, 30, lambda step=step, said=said: f"{step}\n{said}\n{step.missing(said[0])}", every_s=0.3)


@contextmanager
def system(reader: Reader) -> Iterator[None]:
    """What a page starts in the first terminal."""
    process = reader.up("--no-simulate", "--plain")
    try:
        wait_for(lambda: "\nready\n" in reader.text() or process.poll() is not None, 90, reader.text)
        yield
        process.send_signal(signal.SIGINT)
        assert exit_code(process, 60, reader.text) == 0, reader.text()
    finally:
        kill_hard(process)


@contextmanager
def prometheus(reader: Reader, page: Path) -> Iterator[None]:
    """What the page starts in the third terminal."""
    config = reader.folder / SCRAPED.relative_to(REPO)
    config.mkdir(parents=True)
    for file in SCRAPED.iterdir():
        (config / file.name).write_text(reader.own(file.read_text()))
    (command,) = re.findall(r"^prometheus (?:.*\\\n)*.*", page.read_text(), re.MULTILINE)
    words, log = shlex.split(reader.own(command.replace("\\\n", ""))), reader.folder / "prometheus.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=reader.folder, stdout=out, stderr=out)
    try:
        wait_for(lambda: "ready to receive" in log.read_text() or process.poll() is not None, 30, log.read_text)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        kill_hard(process)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    if os.environ.get("KLAIS_TEST_TUTORIAL") != "1":
        need_missing("tutorial", "set KLAIS_TEST_TUTORIAL=1")
    return Reader(tmp_path)


def test_the_first_page_does_what_it_says(reader: Reader) -> None:
    with system(reader):
        reader.follow(FIRST)


def test_the_second_page_does_what_it_says(reader: Reader) -> None:
    need_command("kcat", "kcat")
    need_command("prometheus", "prometheus")
    started = reader.run("klais kafka start")
    assert started.returncode == 0, started.stderr
    try:
        with prometheus(reader, SECOND), system(reader):
            reader.follow(SECOND)
    finally:
        stopped = reader.run("klais kafka stop")
    assert stopped.returncode == 0 and "stopped" in stopped.stdout, stopped.stderr
