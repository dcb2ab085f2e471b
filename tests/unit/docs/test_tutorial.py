"""The commands of the tutorial exist, with their options; tests/broker/test_tutorial.py runs them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from klais.cli.main import main

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [DOCS / "tutorial.md", DOCS / "tutorial-operations.md"]
OTHERS = {"curl", "grep", "kcat", "promtool", "python3", "tail"}  # programs of other projects


@dataclass(frozen=True)
class Step:
    """A block of commands and the lines that the page promises of the last one; ``…`` stands for anything."""

    commands: tuple[str, ...]
    promised: tuple[str, ...]

    def missing(self, output: str) -> list[str]:
        """The promised lines that no line of the output matches."""
        lines = [line.strip() for line in output.splitlines()]
        patterns = {line: ".*".join(map(re.escape, line.split("…"))) for line in self.promised}
        return [line for line, want in patterns.items() if not any(re.fullmatch(want, have) for have in lines)]


def steps(text: str) -> list[Step]:
    """The blocks ``sh`` of a page, each with the block ``text`` that follows it, if any."""
    found: list[Step] = []
    for kind, body in re.findall(r"```(sh|text)\n(.*?)```", text, re.DOTALL):
        lines = tuple(line for line in body.splitlines() if line)
        if kind == "sh":
            found.append(Step(lines, ()))
        else:
            found[-1] = Step(found[-1].commands, lines)
    return found


COMMANDS = [command for page in PAGES for step in steps(page.read_text()) for command in step.commands]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_has_its_steps(page: Path) -> None:
    found = steps(page.read_text())
    assert sum(len(step.commands) for step in found) > 12 and sum(bool(step.promised) for step in found) >= 6


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_is_one(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sent.klm").touch()  # an earlier command writes it
    for part in line.split(" | "):
        words = shlex.split(part)
        if words[0] not in OTHERS:
            check(words)


def check(words: list[str]) -> None:
    """Fail unless these words are a command of KLAIS."""
    assert words.pop(0) == "klais"
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        assert below is not None, words[0]
        command = below
        words.pop(0)
    command.make_context("klais", words)  # raises for an option or argument that it does not have


def test_a_promise_can_be_broken() -> None:
    (step,) = steps("```sh\nklais x\n```\n\n```text\n…dev-1…\nreceived…2\n```\n")
    assert step.missing("a dev-1 b\nreceived  2") == []
    assert step.missing("dev-2\nreceived  21") == ["…dev-1…", "received…2"]
