"""The small commands: output for people and for machines, and exit codes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import klais
from klais.cli import stats
from klais.cli.doctor import checks as doctor_checks
from klais.cli.doctor.checks import Finding
from klais.cli.errors import plain_errors
from klais.cli.main import COMMANDS, main
from klais.config.load import Settings
from klais.errors import ConfigError, KafkaForbidden, KafkaUnavailable
from klais.jit.sources import kernel_modules, package_folder
from tests.support.ports import free_port

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run("config", "show", KLAIS_X="1")`` in an environment without other settings of ours."""
    for name in [name for name in os.environ if name.startswith("KLAIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path / "state"))
    # Set back afterwards, whatever an option puts there.
    monkeypatch.setenv("KLAIS_LOG_LEVEL", "info")
    monkeypatch.setenv("KLAIS_LOG_FORMAT", "text")

    def invoke(*args: str, **environ: str) -> Result:
        return CliRunner().invoke(main, args, env=environ)

    return invoke


def test_help_lists_every_command_without_importing_one(run: Run) -> None:
    text = run("--help").output
    for name in COMMANDS:
        assert f"  {name} " in text


@pytest.mark.parametrize("name", ["worker", "tail", "stats", "xdp", "config", "doctor", "warm", "version"])
def test_help_of_each_command_teaches(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0 and len(result.output.splitlines()) > 8


def test_config_show_masks_and_marks(run: Run) -> None:
    result = run("config", "show", KLAIS_API_TOKEN="hunter2-hunter2-hunter2", KLAIS_PARTITIONS="8")
    assert result.exit_code == 0
    assert "* KLAIS_PARTITIONS=8  (default 4; from the environment)" in result.output
    assert "hunter2" not in result.output
    rows = {row["name"]: row for row in json.loads(run("config", "show", "--json", KLAIS_PARTITIONS="8").output)}
    assert rows["KLAIS_PARTITIONS"]["value"] == "8" and rows["KLAIS_PARTITIONS"]["range"] == "1 to 1024"
    assert set(rows) == {"KLAIS_" + name.upper() for name in Settings.model_fields}


def test_config_check_exit_codes(run: Run) -> None:
    good = run("config", "check", "--json", KLAIS_API_BIND="0.0.0.0:1", KLAIS_API_TOKEN="x" * 16)
    assert good.exit_code == 0 and len(json.loads(good.output)["warnings"]) == 1
    bad = run("config", "check", KLAIS_PARTITIONS="0", KLAIS_WEB_PORT="x")
    assert bad.exit_code == 2
    assert bad.stderr.startswith("klais: 2 problems") and "Traceback" not in bad.output


def test_log_options_reach_every_command(run: Run) -> None:
    assert run("config", "check", "--log-level", "debug", "--log-format", "json").exit_code == 0
    assert run("version", "--log-level", "nonsense").exit_code == 2


@pytest.mark.parametrize(("error", "code"), [(ConfigError("x"), 2), (KafkaUnavailable("away"), 1)])
def test_expected_errors_are_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    @click.command()
    def broken() -> None:
        raise error

    module = type(sys)("klais_test_broken")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "klais_test_broken", module)
    monkeypatch.setitem(COMMANDS, "broken", ("klais_test_broken", "broken", ""))
    result = run("broken")
    assert (result.exit_code, result.stderr) == (code, f"klais: {error}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("control", "block", "\udcff\udcfe"), "is not UTF-8 text"),
        (("devices", "why", "\udcff\udcfe"), "is not UTF-8 text"),
        (("ui", "demo", "--bind", "nonsense"), "host:port"),
        (("ui", "demo", "--bind", "\udcff"), "host:port"),
        (("ui", "demo", "--bind", "nowhere.invalid:6067"), "no such host name"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(run: Run, words: tuple[str, ...], text: str) -> None:
    result = run(*words, KLAIS_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert result.exit_code == 2 and text in result.stderr and "Traceback" not in result.stderr


def test_version(run: Run) -> None:
    found = json.loads(run("version", "--json").output)
    assert found["klais"] == klais.__version__ and found["faust"] == "0.15.3"
    assert found["numpy"] and found["librdkafka"] and found["kernel"].startswith("Linux")
    assert klais.__version__ in run("version").output


def test_worker_becomes_faust_with_our_settings(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *args: calls.append(args))
    options = ("--web-port", "6099", "--web-bind", "::1", "--worker-id", "second", "--log-level", "warning")
    result = run("worker", *options, KLAIS_PARTITIONS="8")
    assert result.exit_code == 0, result.output
    ((program, command, environ),) = calls
    data = tmp_path / "state" / "faust"
    assert program == sys.executable and data.is_dir()
    head = [sys.executable, "-P", "-m", "faust", "-A", "agents.app", "--datadir", str(data), "-l", "WARN", "worker"]
    assert command == [*head, "--web-port", "6099", "--web-bind", "::1"]
    assert environ["KLAIS_WORKER_ID"] == "second" and environ["KLAIS_PARTITIONS"] == "8"
    assert environ["KLAIS_WEB_PORT"] == "6099" and environ["PATH"] == os.environ["PATH"]


def test_worker_refuses_before_it_starts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("started"))
    assert run("worker", "--web-port", "0").exit_code == 2
    assert run("worker", KLAIS_STATE_DIR="/proc/nowhere").exit_code == 1


def test_worker_dry_run_shows_no_values_of_settings(run: Run) -> None:
    output = run("worker", "--dry-run", KLAIS_API_TOKEN="hunter2-hunter2-hunter2").output
    assert "KLAIS_API_TOKEN=..." in output and "hunter2" not in output and " -m faust " in output


def test_warm_finds_all_kernel_modules() -> None:
    found = kernel_modules(package_folder())
    assert {"klais.core.wire.frame", "klais.core.wire.partition", "klais.core.devices.index"} <= set(found)
    assert "klais.jit.kernel" not in found and "klais.cli.warm" not in found


def test_stats_without_an_edge(run: Run) -> None:
    refused = f"127.0.0.1:{free_port()}"
    for command in (("stats", "--url", f"http://{refused}"),):
        result = run(*command)
        assert result.exit_code == 1 and refused in result.stderr and "Traceback" not in result.output
    assert run("tail", "journal", "--device", "x").exit_code == 2


def test_stats_lines() -> None:
    found = {"edge/1": {"age_s": 0.5, "stats": {"received": 3, "dam": {"queued": 1, "none": None}}}}
    assert stats._lines(found) == ["edge/1 age=0.5s received=3", "    dam: queued=1"]


def test_doctor_reports_and_exits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_fine(settings: Settings) -> Any:
        yield Finding("fine", "ok", "yes")

    def check_breaks(settings: Settings) -> Any:
        raise RuntimeError("boom")
        yield

    def check_bad(settings: Settings) -> Any:
        yield Finding("bad", "fail", "no", "do this")

    monkeypatch.setattr("klais.cli.doctor.command.CHECKS", (check_fine, check_breaks))
    assert run("doctor").exit_code == 0
    monkeypatch.setattr("klais.cli.doctor.command.CHECKS", (check_fine, check_breaks, check_bad))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert [(f["name"], f["status"]) for f in json.loads(result.output)] == [
        ("fine", "ok"),
        ("breaks", "warn"),
        ("bad", "fail"),
    ]
    broken = run("doctor", KLAIS_PARTITIONS="0")
    assert (
        broken.exit_code == 1 and "KLAIS_PARTITIONS=0: is too small" in broken.output and "-> do this" in broken.output
    )


def test_doctor_checks_of_this_machine(tmp_path: Path) -> None:
    import socket

    with socket.socket() as held, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        held.bind(("127.0.0.1", 0))
        held.listen()
        udp.bind(("127.0.0.1", 0))
        settings = Settings(
            udp_bind=f"127.0.0.1:{udp.getsockname()[1]}",
            api_bind=f"127.0.0.1:{held.getsockname()[1]}",
            web_port=free_port(),
            kafka_bootstrap=f"127.0.0.1:{free_port()}",
            state_dir=tmp_path / "not" / "there",
            udp_rcvbuf_bytes=65_536,
        )
        found = {f.name: f for check in doctor_checks.CHECKS for f in doctor_checks.run(check, settings)}
    assert found["state folder"].status == "ok" and not settings.state_dir.exists(), "it looks and changes nothing"
    assert found["receive buffer"].status == "ok"
    assert found[f"port {settings.web_port}/tcp"].status == "ok"
    assert found["kafka"].status == "fail" and found["kafka"].fix
    assert found["java"].found.startswith("not needed")
    assert all(f.fix for f in found.values() if f.status == "fail")


def test_doctor_keeps_the_findings_before_an_error_and_fails_without_access_to_topics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check_parts(_: Settings) -> Iterator[Finding]:
        yield Finding("first", "fail", "it is broken", "mend it")
        raise RuntimeError("no more")

    found = doctor_checks.run(check_parts, Settings())
    assert [(one.name, one.status) for one in found] == [("first", "fail"), ("parts", "warn")]

    def refuse(_: Settings) -> None:
        raise KafkaForbidden("Kafka refuses")

    monkeypatch.setattr("klais.kafka.admin.check_topics", refuse)
    (topics,) = doctor_checks._topics(Settings())
    assert (topics.name, topics.status, topics.found) == ("topics", "fail", "Kafka refuses")


def test_doctor_names_a_folder_it_may_not_write(tmp_path: Path) -> None:
    found = list(doctor_checks.check_folders(Settings(state_dir=Path("/proc/klais"), cache_dir=tmp_path)))
    assert [(f.name, f.status) for f in found] == [("state folder", "fail"), ("cache folder", "ok")]


def test_the_doctor_looks_at_the_disk_of_the_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"state_dir": tmp_path, "cache_dir": tmp_path, "spool_dir": Path("/proc/klais")}
    (spool,) = [f for f in doctor_checks.check_folders(Settings(**given)) if f.name == "spool folder"]
    assert spool.status == "fail" and "KLAIS_SPOOL_DIR" in spool.fix
    there = tmp_path / "spool" / "spool-1"
    there.mkdir(parents=True)
    (there / "a.spool").write_bytes(bytes(2000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9_000_000))
    settings = Settings(**given | {"spool_dir": there.parent}, spool_max_bytes=9_001_000)
    assert [f.status for f in doctor_checks.check_spool(settings)] == ["ok"]
    (found,) = doctor_checks.check_spool(settings.model_copy(update={"edge_workers": 2}))
    assert found.status == "warn" and "KLAIS_SPOOL_MAX_BYTES" in found.fix


def test_doctor_sees_ports_that_a_stranger_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from klais.errors import PortInUse

    def held_by(who: str) -> str:
        def refuse(*_: object) -> None:
            raise PortInUse(f"tcp port 1 on x is taken by {who}: stop it, or choose another port with Y")

        monkeypatch.setattr("klais.system.ports.check_port", refuse)
        return next(doctor_checks.check_ports(Settings())).status

    assert held_by("nginx (pid 3)") == "fail"
    assert held_by("java kafka.Kafka (pid 3)") == "ok"


def test_rights_name_a_principal_and_are_safe_in_a_shell(run: Run) -> None:
    for wrong in ("", "klais", ":klais", "User:", "User: ", "-1"):
        found = run("topics", "rights", f"--principal={wrong}")
        assert found.exit_code == 2 and repr(wrong) in found.output
    lines = run("topics", "rights", "--principal=User:a; reboot").output.splitlines()
    assert all("--allow-principal 'User:a; reboot' " in line for line in lines if not line.startswith("#"))


def test_a_full_disk_is_one_line() -> None:
    command = [sys.executable, "-m", "klais", "--config", "none", "config", "show"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "klais: the output cannot be written: No space left on device\n")


def test_a_file_of_another_user_is_one_line_with_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLAIS_STATE_DIR", str(tmp_path))

    def refused() -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "kafka" / "data"))

    @click.command()
    @plain_errors
    def command() -> None:
        refused()

    found = CliRunner().invoke(command)
    assert found.exit_code == 1 and found.stderr.count("\n") == 1
    assert f"may not use {tmp_path}/kafka/data" in found.stderr and "(KLAIS_STATE_DIR)" in found.stderr
