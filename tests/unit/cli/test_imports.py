"""What a short command does not import: this, not the work, is what one waits for."""

import json
import os
import subprocess
import sys

HEAVY = (
    "pydantic",
    "http.client",
    "email",
    "ssl",
    "orjson",
    "asyncio",
    "logging",
    "numpy",
    "aiohttp",
    "confluent_kafka",
)
NOBODY = ["--url", "http://127.0.0.1:1"]
_RUN = """
import json, sys
from klais.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        assert ended.code in (0, 1), words
    found = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
    assert not found, f"klais {' '.join(words)} imports {found}"
"""


def test_commands_that_only_ask_a_server_import_little() -> None:
    commands = [
        ["stats", "--help"],
        ["stats", *NOBODY],
        ["devices", "list", *NOBODY],
        ["incidents", "list", *NOBODY],
        ["lag", *NOBODY],
        ["tap", *NOBODY],
        ["top", "--once", *NOBODY],
        ["profile", "list"],
        ["completion", "bash"],
        ["control", "--help"],
        ["plan", "--help"],
        ["xdp", "--help"],
    ]
    given = {name: value for name, value in os.environ.items() if not name.startswith("KLAIS_")}
    given |= {"KLAIS_CONFIG": "none", "KLAIS_KAFKA_BOOTSTRAP": "kafka1:9092", "KLAIS_PARTITIONS": "16"}
    given |= {"KLAIS_API_BIND": "0.0.0.0:8080", "KLAIS_LATENCY_MS": "50.5", "KLAIS_API_TOKEN": "t" * 16}
    command = [sys.executable, "-c", _RUN, json.dumps(commands), json.dumps(HEAVY)]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("answers at http://127.0.0.1:1 (--url): connection refused") >= 5
