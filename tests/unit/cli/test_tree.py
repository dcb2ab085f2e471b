"""Every command of the tree: one spelling of each option, the same forms of output, and a well-behaved help."""

import os
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from klais.cli.main import COMMANDS, main

_UNBOUNDED = (type(click.INT), type(click.FLOAT))
COMMON = {"--config", "--profile", "--log-level", "--log-format"}


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group below ``command``, itself first."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from walk(below, (*path, name))


TREE = dict(walk(main))
LEAVES = {path: command for path, command in TREE.items() if not isinstance(command, click.Group)}


def options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option)]


def every_option() -> Iterator[tuple[str, click.Option]]:
    for path, command in TREE.items():
        for option in options(command):
            yield " ".join(path), option


def test_the_tree_is_whole() -> None:
    assert {path[0] for path in TREE if path} == set(COMMANDS) and len(LEAVES) > 70


def test_a_short_option_stands_for_the_same_long_one_everywhere() -> None:
    meant = defaultdict(set)
    for _, option in every_option():
        for short in (name for name in option.opts if not name.startswith("--")):
            meant[short].add(option.name)
    assert {short: names for short, names in meant.items() if len(names) > 1} == {}


def test_an_option_is_a_flag_everywhere_or_nowhere() -> None:
    kinds = defaultdict(set)
    for _, option in every_option():
        for name in option.opts:
            kinds[name].add(option.is_flag)
    assert [name for name, found in kinds.items() if len(found) > 1] == []


def test_a_time_that_something_lasts_is_called_for() -> None:
    """And every time is a duration with a unit, as 30s or 10m."""
    for path, option in every_option():
        assert not {"--ttl", "--duration", "--timeout", "--expires", "--seconds"} & set(option.opts), path
        if {"--for", "--wait", "--interval"} & set(option.opts):
            assert option.type.name == "duration", (path, option.opts)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_forms_of_output(path: tuple[str, ...]) -> None:
    """A list has -o with all forms, and whatever has -o has --json too."""
    names = {name: option for option in options(LEAVES[path]) for name in option.opts}
    assert not {"--format", "--csv", "--no-json", "--output-format"} & set(names), "there is -o"
    if path[-1] == "list":
        assert "-o" in names
        assert names["-o"].type.to_info_dict()["choices"] == ("table", "json", "jsonl", "csv")
    if "-o" in names:
        assert names["--json"].is_flag and names["--output"] is names["-o"]


@pytest.mark.parametrize("path", TREE, ids=lambda path: " ".join(path) or "klais")
def test_help(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It explains the command and each option, in plain text, for a terminal of any width."""
    command = TREE[path]
    assert command.help and command.help.split("\n\n")[0].rstrip().endswith((".", ":", "?")), path
    visible = [option for option in options(command) if not option.hidden]
    assert [option.opts for option in visible if not (option.help or "").strip()] == []
    for option in options(command):
        if set(option.opts) & COMMON and path:
            assert option.hidden or option.opts[0] not in COMMON
    runner = CliRunner()
    for columns in (40, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        found = runner.invoke(main, [*path, "--help"], color=True)
        assert found.exit_code == 0, found.output
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", found.output)
        assert f"Usage: main {' '.join(path)}".rstrip() in " ".join(found.output.split())
        assert max(map(len, found.output.splitlines())) <= 80  # examples keep their lines


KINDS = ("float", "float range", "integer", "integer range", "duration", "rate")
NUMBERS = [(path, param) for path, command in TREE.items() for param in command.params if param.type.name in KINDS]
# Text, and what stands in the error for it: a range names the number that it read.
NO_NUMBERS = {text: repr(text) for text in ("nonsense", "", "0x10", "1,5", "\x1b[31m")}
NO_NUMBERS |= {"nan": "nan", "-inf": "inf", "1e999": ""}


def test_what_is_no_number_is_refused_with_the_value_and_the_name() -> None:
    """NaN passes every comparison with a range, and infinity ends in an error far from here."""
    assert len(NUMBERS) > 70
    for path, param in NUMBERS:
        for text, shown in NO_NUMBERS.items():
            with pytest.raises(click.BadParameter) as refused:
                pytest.fail(f"{path} {param.opts} takes {text!r} as {param.type.convert(text, param, None)!r}")
            assert shown in refused.value.message, (path, param.opts, refused.value.message)
            assert refused.value.param is param


KAFKA_FREE = {"up", "edge", "worker", "kafka", "send", "auth", "top", "ui", "xdp", "score", "models", "explain",
              "config", "profile", "validate", "plan", "doctor", "warm", "completion", "version"}  # fmt: skip
GIVEN = {"device_id": "d", "device_ids": "d", "incident_id": "i-0123456789", "topic": "raw", "prefix": "192.0.2.7"}
MORE = {
    ("control", "set"): ["--rate", "5000"],
    ("control", "device"): ["--rate", "5"],
    ("devices", "limit"): ["--rate", "5"],
    ("incidents", "mute"): ["--prefix", "test-"],
    ("incidents", "unmute"): ["--prefix", "test-"],
}
OWN = {("simulate",), ("simulate", "show"), ("simulate", "check"), ("topics", "rights")}
ASKS = [path for path in LEAVES if path[0] not in KAFKA_FREE and path not in OWN]


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that refuses connections, as nobody else can listen on it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("path", ASKS, ids=" ".join)
def test_a_command_says_at_once_that_nobody_is_there(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, closed: int
) -> None:
    """One line: address, setting, reason, what to do; without a wait and without lines of client libraries."""
    for name in [name for name in os.environ if name.startswith("KLAIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KLAIS_KAFKA_BOOTSTRAP", f"127.0.0.1:{closed}")
    monkeypatch.setenv("KLAIS_WEB_PORT", str(closed))
    arguments = [GIVEN[str(param.name)] for param in LEAVES[path].params if isinstance(param, click.Argument)]
    found = CliRunner().invoke(main, [*path, *MORE.get(path, []), *arguments])
    assert found.exit_code == 1 and found.stdout == "", found.output
    names = r"\((KLAIS_KAFKA_BOOTSTRAP|KLAIS_WEB_PORT)\): connection refused\. To fix it, "
    assert re.match(f"klais: no (Kafka|worker) answers at (http://)?127.0.0.1:{closed} {names}", found.stderr)
    assert found.stderr.count("\n") == 1 and "`klais up`" in found.stderr


@pytest.mark.parametrize("path", TREE, ids=lambda path: " ".join(path) or "klais")
def test_a_reader_that_goes_away_ends_it_quietly(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in ``klais devices --help | head -1``."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        with pytest.raises(SystemExit) as ended:
            main.main([*path, "--help"], prog_name="klais")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)  # what is left in its buffer goes somewhere
    assert ended.value.code in (0, 1) and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("environ", "colour"), [({}, None), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, None)]
)
def test_colours_are_left_out_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], colour: bool | None
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    seen: list[bool | None] = []

    @click.command()
    def look() -> None:
        seen.append(click.get_current_context().color)

    monkeypatch.setitem(COMMANDS, "look", ("tests.unit.cli.test_tree", "LOOK", ""))
    monkeypatch.setattr(sys.modules[__name__], "LOOK", look, raising=False)
    monkeypatch.setattr("importlib.import_module", lambda _name: sys.modules[__name__])
    assert CliRunner().invoke(main, ["look"], env=environ).exit_code == 0
    assert seen == [colour]


def test_every_number_has_a_range() -> None:
    """What is out of it is refused with the range, before any work; without one it ends where a library refuses it."""
    free = [(name, option) for name, option in every_option() if type(option.type) in _UNBOUNDED]
    assert [(name, option.opts) for name, option in free if "(KLAIS_" not in (option.help or "")] == []  # a setting has
