"""What `klais up` shows: plain lines, JSON, the picture; ports that clash; what it needs to be imported."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from klais.cli.up import launch_options as launch_options
from klais.cli.up.command import up
from klais.cli.up.launch_options import LaunchOptions, check_ports, ports_of, udp_target
from klais.cli.up.reporter import Addresses, JsonReporter, PlainReporter, Summary
from klais.cli.up.sampler import Latency, Newest
from klais.cli.up.screen import ScreenReporter, picture
from klais.cli.up.snapshot import Monitor, Simulated, Snapshot
from klais.config.load import Settings
from klais.errors import ConfigError, PortInUse
from klais.system.address import url_of
from klais.telemetry.view import SystemView
from klais.verify.conservation import Totals

TOTALS = Totals(
    sent=1000, edge_received=1000, edge_dropped={"bad_magic": 3}, published=997, worker_received=997, passed=997
)
SNAPSHOT = Snapshot(
    elapsed_s=65.0,
    totals=TOTALS,
    rates={"sent": 10.0, "edge_received": 10.0, "published": 9.0, "worker_received": 9.0, "landed": None},
    lag=2,
    rate_limit=10_000.0,
    rate_by="set by the controller",
    lanes={0: "live", 1: "starting"},
    workers=1,
    devices=12,
    anomaly_devices=1,
    checkpoint_age_s=1.25,
    inflight_bytes=0,
    latency=Latency(9.4, 21.0, 100),
    newest=[Newest(1.0, 1_795_475_424_683, b"dev-1", b'{"device_id":"dev-1","data":{"t":\x1b[31m1}}')],
)
ADDRESSES = Addresses(
    kafka="127.0.0.1:9092",
    udp="127.0.0.1:5000",
    rest="http://127.0.0.1:8080",
    views=["http://127.0.0.1:6066"],
    telemetry="iot_telemetry",
    logs=".klais/logs",
    simulated="1,000 simulated devices",
)


def test_the_plain_line_has_every_stage_drops_by_reason_and_latency() -> None:
    line = SNAPSHOT.line()
    for part in (
        "1m5s",
        "sent 10/s",
        "edge 10/s",
        "published 9/s",
        "worker 9/s",
        "landed -",
        "dropped 3",
        "bad_magic 3",
    ):
        assert part in line
    for part in ("lag 2", "queue 0", "p50 9 ms", "p99 21 ms", "lanes not live: 1"):
        assert part in line


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()
    reporter.progress("text\nwith a newline")
    reporter.ready(ADDRESSES)
    reporter.snapshot(SNAPSHOT)
    reporter.summary(Summary(5.0, TOTALS, True, ["997 frames passed and 0 records landed"]))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == ["progress", "ready", "snapshot", "summary"]
    assert rows[1]["rest"] == ADDRESSES.rest
    assert rows[2]["totals"]["dropped"]["edge"] == {"bad_magic": 3}
    assert (rows[3]["adds_up"], rows[3]["totals"]["passed"]) == (False, 997)


def test_the_summary_says_whether_it_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    PlainReporter().summary(Summary(5.0, replace(TOTALS, landed=997), True, []))
    good = capsys.readouterr().out
    assert "every frame is accounted for" in good and "3 bad_magic" in good and "sent" in good
    PlainReporter().summary(Summary(5.0, TOTALS, False, ["997 frames passed and 0 records landed"], "because"))
    bad = capsys.readouterr().out
    assert (
        "they do not add up (because)" in bad
        and "  997 frames passed and 0 records landed" in bad
        and "sent" not in bad
    )


def test_ready_names_addresses_and_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    PlainReporter().ready(ADDRESSES)
    out = capsys.readouterr().out
    for part in (
        "http://127.0.0.1:8080/health",
        "http://127.0.0.1:6066/ui/",
        "klais tail iot_telemetry",
        "klais send",
    ):
        assert part in out


def test_the_picture_shows_everything_and_no_control_character_of_a_device() -> None:
    console = Console(file=io.StringIO(), width=140, height=60, force_terminal=True, color_system=None)
    screen = ScreenReporter(console)
    screen.progress("starting")
    screen.ready(ADDRESSES)
    screen.snapshot(SNAPSHOT)
    screen.snapshot(replace(SNAPSHOT, newest=[]))
    screen.close()
    screen.summary(Summary(5.0, TOTALS, True, []))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("1m5s", "published", "landed in iot_telemetry", "3 bad_magic", "1 of 2 live", "p50 9 ms", "none yet"):
        assert part in text
    assert "\x1b[31m" not in text
    assert r'"t":\x1b[31m1' in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 20), (40, 10), (140, 60)])
def test_the_picture_fits_the_terminal_with_the_addresses_before_the_records(width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    many = replace(SNAPSHOT, newest=SNAPSHOT.newest * 6)
    with console.capture() as captured:
        console.print(picture(many, ADDRESSES, height))
    lines = captured.get().splitlines()
    assert len(lines) < max(height, 17)  # a line is left for the cursor; the figures are shown in any case
    text = "\n".join(lines)
    assert ("live page" in text) == (height >= 20) and ("newest records" in text) == (height > 24)
    assert "landed in" in text and "dead letters" in text


def test_a_record_of_another_program_whose_time_no_clock_shows_does_not_end_the_screen() -> None:
    console = Console(file=io.StringIO(), width=100, height=40)
    console.print(picture(replace(SNAPSHOT, newest=[Newest(1.0, 10**18, b"", b'{"ts":1}')]), ADDRESSES, 40))
    assert '-             {"ts":1}' in console.file.getvalue()  # type: ignore[attr-defined]


def test_while_no_process_reports_figures_are_unknown() -> None:
    silent = SimpleNamespace(view=lambda: SystemView({}, {}, {}))
    ends = SimpleNamespace(ends=lambda: {0: 5}, is_fresh=lambda: False, latency=lambda: None, newest=list)
    monitor = Monitor("edge-1", 2, silent, ends)  # type: ignore[arg-type]
    for _ in range(3):
        monitor.refresh()
    found = monitor.snapshot()
    assert (found.lag, found.rate_limit, found.devices, found.checkpoint_age_s) == (None, None, None, None)
    assert found.rates["landed"] is None and set(found.lanes.values()) == {"unknown"}
    assert "lag -" in found.line() and "no worker reports" in found.line()
    assert json.loads(json.dumps(found.as_dict()))["lag_records"] is None
    console = Console(file=io.StringIO(), width=100, height=40, color_system=None)
    console.print(picture(found, ADDRESSES, 40))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "unknown: no worker reports" in text and "- batches behind" in text and "0 of 2 live" not in text


def test_the_simulators_lines_are_read_as_they_grow(tmp_path: Path) -> None:
    log = tmp_path / "simulate.log"
    simulated = Simulated(log)
    assert simulated.read() == []
    log.write_bytes(b'a warning\n{"sent": 1}\n{"se')
    assert simulated.read() == [{"sent": 1}]
    with log.open("ab") as file:
        file.write(b'nt": 2}\n{broken}\n')
    assert simulated.read() == [{"sent": 2}]
    assert simulated.read() == []


def test_all_ports_that_are_taken_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(host: str, port: int, kind: str, setting: str, host_setting: str) -> None:
        if port in (5000, 8080):
            raise PortInUse(f"{kind} port {port} on {host} is taken by x (pid 1): choose another port with {setting}")
        if port == 6066:
            raise ConfigError(f"cannot listen on {kind} port {port} of {host!r}: no such host name ({host_setting})")

    monkeypatch.setattr(launch_options, "check_port", taken)
    with pytest.raises(PortInUse) as problems:
        check_ports(ports_of(LaunchOptions(Settings()), own_broker=True))
    lines = str(problems.value).split("\n  ")
    assert lines[0] == "3 ports:"
    assert "udp port 5000" in lines[1] and "KLAIS_UDP_BIND" in lines[1]
    assert "tcp port 8080" in lines[2] and "KLAIS_API_BIND" in lines[2]
    assert lines[3] == "cannot listen on tcp port 6066 of '127.0.0.1': no such host name (KLAIS_WEB_BIND)"


def test_a_port_wanted_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_options, "check_port", lambda *_: None)
    settings = Settings(web_port=8079, udp_bind="0.0.0.0:9092")
    check_ports(ports_of(LaunchOptions(settings), own_broker=True))  # udp and tcp of one number do not clash
    with pytest.raises(PortInUse, match="tcp port 8080 is used twice, by KLAIS_API_BIND and KLAIS_WEB_PORT"):
        check_ports(ports_of(LaunchOptions(settings, workers=2), own_broker=True))


def test_ports_are_those_that_will_be_bound() -> None:
    settings = Settings(udp_share_port=True, web_port=7000)
    found = [(entry.port, entry.setting) for entry in ports_of(LaunchOptions(settings, workers=2), own_broker=False)]
    assert found == [(8080, "KLAIS_API_BIND"), (7000, "KLAIS_WEB_PORT"), (7001, "KLAIS_WEB_PORT")]


def test_addresses_that_mean_everywhere_are_reached_at_home() -> None:
    assert url_of("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert udp_target(Settings(udp_bind="[::]:5000")) == "[::1]:5000"
    assert udp_target(Settings(udp_bind="192.0.2.1:5000")) == "192.0.2.1:5000"


def test_a_rate_without_simulated_devices_is_refused() -> None:
    ran = CliRunner().invoke(up, ["--no-simulate", "--rate", "5"])
    assert ran.exit_code == 2 and "--no-simulate" in ran.output
