"""``klais config`` and ``klais profile``: what they print, and where the options before a command may stand."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from klais.cli.config import changes_of
from klais.cli.main import main
from klais.cli.worker import worker_environ
from klais.config import toml_file
from klais.config.load import Settings, describe, load

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toml_file, "SEARCHED", toml_file.SEARCHED[:1])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KLAIS_GIVEN_OPTIONS", raising=False)  # of tests before
    clean = {
        f"KLAIS_{name}": "" for name in ("CONFIG", "PROFILE", "LOG_LEVEL", "GIVEN_OPTIONS")
    }  # set back after each run
    return lambda *args, **environ: CliRunner().invoke(main, args, env=clean | environ)


def test_init_writes_a_file_that_is_found_and_read(run: Run) -> None:
    before = os.umask(0o002)
    try:
        assert run("config", "init").exit_code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("klais.toml").stat().st_mode) == 0o644
    again = run("config", "init")
    assert again.exit_code == 2 and "--force" in again.stderr
    assert run("config", "init", "--force").exit_code == 0
    printed = run("config", "init", "-").stdout
    assert printed == Path("klais.toml").read_text()
    Path("klais.toml").write_text(printed.replace("# partitions = 4", "partitions = 8"))
    shown = run("config", "show", "--only-set").stdout
    assert "* KLAIS_PARTITIONS=8  (default 4; klais.toml:" in shown
    line = int(shown.partition("klais.toml:")[2].partition(")")[0])
    assert printed.splitlines()[line - 1] == "# partitions = 4"
    assert run("config", "check").stdout.startswith("ok: 1 settings from ")
    assert run("config", "diff").stdout == "[kafka]\npartitions = 8\n"
    assert run("--config", "none", "config", "diff").stdout == ""


def test_check_answers_in_json_when_it_fails_too(run: Run) -> None:
    Path("own.toml").write_text("[kafka]\npartitions = 0\nprt = 1\n")
    found = run("--config", "own.toml", "config", "check", "--json", KLAIS_WEB_PORT="x")
    body = json.loads(found.stdout)
    assert found.exit_code == 2 and body["ok"] is False and len(body["problems"]) == 3
    assert any(line.startswith("own.toml:2: [kafka] partitions=0: is too small") for line in body["problems"])
    assert json.loads(run("config", "check", "--json").stdout) == {"ok": True, "problems": [], "warnings": []}


@pytest.mark.parametrize("before", [True, False])
def test_the_options_stand_before_or_behind_a_command(run: Run, before: bool) -> None:
    Path("own.toml").write_text("[kafka]\npartitions = 9\n")
    options = ("--config", "own.toml", "--log-level", "error")
    command = ("config", "diff")
    found = run(*options, *command) if before else run(*command, *options)
    assert found.stdout == '[kafka]\npartitions = 9\n\n[process]\nlog_level = "error"\n'


@pytest.mark.parametrize("option", ["--config", "--profile"])
def test_an_empty_option_is_not_none(run: Run, option: str) -> None:
    """As from `--profile "$SYSTEM"` with the variable unset."""
    found = run(option, "", "config", "diff")
    assert found.exit_code == 2 and f"'{option}': is empty" in found.stderr


def test_the_common_options_are_in_one_help_only(run: Run) -> None:
    for option in ("--config FILE", "--profile NAME", "--log-level", "--log-format"):
        assert option in run("--help").stdout
        assert option not in run("devices", "list", "--help").stdout


def test_profiles_are_listed_and_used(run: Run, tmp_path: Path) -> None:
    assert run("profile", "list").stdout.startswith("no profiles: ")
    path = tmp_path / "home" / "klais" / "profiles.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[prod]\nbootstrap = "a:1"\nworker_url = "http://a:1"\n')
    assert json.loads(run("profile", "list", "-o", "json").stdout)["profiles"] == [
        {"profile": "prod", "bootstrap": "a:1", "worker_url": "http://a:1"}
    ]
    assert "prod" in run("profile", "list").stdout
    assert json.loads(run("profile", "show", "prod", "--json").stdout)["bootstrap"] == "a:1"
    assert run("profile", "show", "none").exit_code == 2
    assert 'bootstrap = "a:1"' in run("--profile", "prod", "config", "diff").stdout
    with_edge = run("--profile", "prod", "stats", "--rest")
    assert with_edge.exit_code == 2 and "has no edge_url" in with_edge.stderr


def test_no_file_and_no_variable_are_the_defaults(run: Run) -> None:
    assert load() == Settings()


def test_a_worker_reads_the_file_again_when_it_is_asked_to(run: Run, tmp_path: Path) -> None:
    Path("klais.toml").write_text('[process]\nlog_level = "debug"\n[kafka]\npartitions = 8\n')
    given = worker_environ(load(web_port=7000))
    assert (given["KLAIS_CONFIG"], given["KLAIS_WEB_PORT"]) == (str(tmp_path / "klais.toml"), "7000")
    Path("klais.toml").write_text('[process]\nlog_level = "error"\n')
    assert load(_settings_in(given)).log_level == "error"


def test_an_option_wins_over_the_file_of_variables_also_in_a_worker(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.env"
    path.write_text("KLAIS_WEB_PORT=6066\nKLAIS_LOG_LEVEL=info\nKLAIS_PARTITIONS=8\n")
    shown = run("--log-level", "debug", "config", "diff", KLAIS_ENV_FILE=str(path)).stdout
    assert 'log_level = "debug"' in shown and "partitions = 8" in shown
    monkeypatch.setenv("KLAIS_ENV_FILE", "worker.env")
    given = _settings_in(worker_environ(load(web_port=7000)))
    assert load(given).web_port == 7000
    path.write_text("KLAIS_WEB_PORT=6067\nKLAIS_LOG_LEVEL=error\nKLAIS_PARTITIONS=8\n")
    assert (load(given).web_port, load(given).log_level) == (7000, "error"), "a reload"


def test_a_worker_of_a_profile_gets_no_login_of_another_system(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "home" / "klais" / "profiles.toml"
    profiles.parent.mkdir(parents=True)
    profiles.write_text('[prod]\nbootstrap = "a:1"\nworker_url = "http://a:1"\n')
    file = tmp_path / "worker.env"
    file.write_text("KLAIS_API_READ_TOKEN=of-another-system\nKLAIS_LOG_LEVEL=debug\n")
    file.chmod(0o600)
    others = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_USERNAME": "other", "SASL_PASSWORD": "hunter2"}
    for name, value in others.items():
        monkeypatch.setenv(f"KLAIS_KAFKA_{name}", value)
    monkeypatch.setenv("KLAIS_ENV_FILE", str(file))
    monkeypatch.setenv("KLAIS_PROFILE", "prod")
    child = load(_settings_in(worker_environ(load())))
    assert (child.kafka_bootstrap, child.kafka_security_protocol, child.log_level) == ("a:1", "PLAINTEXT", "debug")
    assert (child.kafka_sasl_username, child.kafka_sasl_password, child.api_read_token) == (None, None, None)


def _settings_in(environ: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith("KLAIS_")}


def test_a_change_says_what_runs_and_what_it_needs(run: Run) -> None:
    running = [{"name": row.name, "value": row.value} for row in describe(Settings(api_token="x" * 16))]
    here = describe(Settings(api_token="y" * 16, partitions=9, log_level="error", config="klais.toml"))
    assert changes_of(here, running) == [
        {"name": "KLAIS_PARTITIONS", "running": "4", "here": "9", "needs": "a restart"},
        {
            "name": "KLAIS_LOG_LEVEL",
            "running": "info",
            "here": "error",
            "needs": "a reload of the edge, a restart of workers",
        },
    ]
    assert changes_of(here, running[:1]) == []
    assert run("config", "diff", "--url", "http://127.0.0.1:1").exit_code == 2
