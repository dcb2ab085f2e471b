"""Several devices blocked by one command: from its arguments, or a list on standard input."""

import json
import os

import pytest
from click.testing import CliRunner, Result

from klais.cli.control import author
from klais.cli.main import main
from tests.unit.cli.test_devices import Run, Written, run, written

__all__ = ["run", "written"]  # fixtures


def test_many_devices_are_blocked_at_once_each_with_a_line(run: Run, written: Written) -> None:
    found = run("devices", "block", "a", "b c", "a", "--for", "10m", "--reason", "r")
    assert [line.partition(";")[0] for line in found.output.splitlines()] == [
        "blocked a for 600 s",
        "blocked b c for 600 s",
    ]
    assert [scope for scope, *_ in written] == ["device/a", "device/b c"]
    found = run("devices", "unblock", "a", "{}", "--json")
    assert [json.loads(line)["scope"] for line in found.output.splitlines()] == ["device/a", "device/{}"]


def test_devices_to_block_come_from_standard_input(written: Written) -> None:
    def block(given: bytes, *more: str) -> Result:
        written.clear()
        return CliRunner().invoke(main, ["devices", "block", "-", *more], input=given)

    assert block("dev-1\r\n\n dev 2\nß".encode()).exit_code == 0
    assert [scope for scope, *_ in written] == ["device/dev-1", "device/ dev 2", "device/ß"]
    many = b"".join(b"dev-%d\n" % n for n in range(101))
    for given, text in (
        (many, "these are 101 devices: more than 100 need --yes"),
        (b"dev-1\n" + b"x" * 17, "does not"),  # nothing is written before all ids are checked
        (b"dev-1\n\xff", "standard input is not UTF-8 text: byte 6 of it"),
        (b"\n", "standard input holds no device id"),
    ):
        refused = block(given)
        assert refused.exit_code == 2 and text in refused.output and written == [], refused.output
    assert block(many, "--yes").exit_code == 0 and len(written) == 101


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 12345"), OSError("No username set")])
def test_a_user_without_a_name_can_block(written: Written, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def unknown() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", unknown)
    found = CliRunner().invoke(main, ["devices", "block", "a"])
    assert found.exit_code == 0, found.output
    assert author().startswith(f"uid-{os.getuid()}@") and len(written) == 1
