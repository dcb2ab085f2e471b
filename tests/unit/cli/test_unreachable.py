"""What a command says when the server that it asks is not there: one line, which names address and setting."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from klais.config.fields import environ_without_settings

KAFKA = (
    "tail telemetry", "stats", "topics list", "topics check", "topics create", "control status", "control auto",
    "control watch", "redrive", "what-if", "devices block dev-1 --reason x", "devices forget dev-1",
)  # fmt: skip
VIEWS = ("lag", "devices list", "devices show x", "devices why x", "incidents list", "tap", "top --once",
         "explain i-0123456789")  # fmt: skip
NOBODY = {
    "KLAIS_KAFKA_BOOTSTRAP": "127.0.0.1:1", "KLAIS_WEB_URL": "http://127.0.0.1:1",
    "KLAIS_API_URL": "http://127.0.0.1:1", "KLAIS_CONFIG": "none",
}  # fmt: skip
# One process for all: each command imports for itself, and all of them together cost what one does.
RUN = """
import sys
from click.testing import CliRunner
from klais.cli.main import main
for command in sys.argv[1:]:
    found = CliRunner().invoke(main, command.split())
    print(repr((command, found.exit_code, found.stdout, found.stderr)))
"""


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        (KAFKA, "no Kafka answers at 127.0.0.1:1 (KLAIS_KAFKA_BOOTSTRAP): connection refused. To mend it, "),
        (VIEWS, "no worker answers at http://127.0.0.1:1 (KLAIS_WEB_URL): connection refused. To mend it, "),
        (("stats --rest",), "no edge answers at http://127.0.0.1:1 (KLAIS_API_URL): connection refused. To mend it, "),
    ],
)
def test_each_command_names_address_setting_reason_and_remedy(
    commands: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    command_line = [sys.executable, "-c", RUN, *commands]
    environ = environ_without_settings() | NOBODY
    ran = subprocess.run(command_line, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = [ast.literal_eval(line) for line in ran.stdout.splitlines()]
    assert [command for command, *_ in found] == list(commands)
    for command, code, out, err in found:
        lines = [line for line in err.splitlines() if "imports numba" not in line]
        assert (code, out, len(lines)) == (1, "", 1) and lines[0].startswith(f"klais: {says}"), command
