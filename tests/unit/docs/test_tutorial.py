"""The commands of docs/tutorial.md exist, with their options; tests/broker/test_tutorial.py runs them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from klais.cli.main import main

PAGE = Path(__file__).parents[3] / "docs" / "tutorial.md"


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


STEPS = steps(PAGE.read_text())
COMMANDS = [command for step in STEPS for command in step.commands]


def test_the_page_has_its_steps() -> None:
    assert len(COMMANDS) > 12 and sum(bool(step.promised) for step in STEPS) >= 6


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_is_one(line: str) -> None:
    words = shlex.split(line)
    assert words.pop(0) == "klais"
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        below = command.get_command(click.Context(command), words[0])
        assert below is not None, words[0]
        command = below
        words.pop(0)
    command.make_context("klais", words)  # raises for an option or argument that it does not have


def test_a_promise_can_be_broken() -> None:
    (step,) = steps("```sh\nklais x\n```\n\n```text\n…dev-1…\nreceived…2\n```\n")
    assert step.missing("a dev-1 b\nreceived  2") == []
    assert step.missing("dev-2\nreceived  21") == ["…dev-1…", "received…2"]
