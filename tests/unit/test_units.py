"""The units for systemd: they parse, and what they leave open to an attacker who took a process over stays small."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from klais.config.load import Settings
from tests.support.needs import need_command

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))
DROP_INS = sorted(DEPLOY.glob("*.service.d/*.conf"))
# Exposure from 0 to 10, as `systemd-analyze security` counts. The kernel's filter needs rights that nothing else does.
MAX_EXPOSURE, MAX_EXPOSURE_WITH_XDP = 2.5, 4.5


@pytest.fixture
def analyze() -> str:
    return need_command("systemd", "systemd-analyze")


def copies(folder: Path, drop_ins: bool) -> Path:
    """The units as an administrator installs them, with programs that are on this machine."""
    for path in DEPLOY.iterdir():
        if path.suffix in (".service", ".socket", ".target"):
            text = path.read_text().replace("/opt/klais/.venv/bin/klais", "/bin/true")
            (folder / path.name).write_text(text.replace("User=klais", "User=root"))
    for path in DROP_INS if drop_ins else ():
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    return folder


def exposure(analyze: str, unit: Path) -> float:
    """As systemd counts it for one unit."""
    settings = "".join(path.read_text() for path in (unit, *sorted(unit.with_name(unit.name + ".d").glob("*.conf"))))
    whole = unit.with_name("whole-" + unit.name)
    whole.write_text(settings)
    command = [analyze, "security", "--offline=true", "--no-pager", "--json=short", str(whole)]
    done = subprocess.run([*command[:-1], "--threshold=100", command[-1]], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) > 50, "systemd looked at the unit"
    shown = subprocess.run([a for a in command if "json" not in a], capture_output=True, text=True, check=True).stdout
    return float(next(line for line in shown.splitlines() if "Overall exposure" in line).split(":")[1].split()[0])


def test_there_is_a_unit_for_each_process() -> None:
    assert UNITS == ["klais-edge.service", "klais-worker.service", "klais-xdp.service"]
    assert [path.parent.name for path in DROP_INS] == ["klais-edge.service.d"]


@pytest.mark.parametrize("drop_ins", [False, True])
def test_systemd_takes_the_units(analyze: str, tmp_path: Path, drop_ins: bool) -> None:
    folder = copies(tmp_path, drop_ins)
    units = [str(path) for path in sorted(folder.iterdir()) if path.is_file()]
    env = {"SYSTEMD_UNIT_PATH": f"{folder}:"}
    done = subprocess.run([analyze, "verify", "--man=no", *units], env=env, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "klais" in line]
    assert complaints == [] and done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_leaves_little_open(analyze: str, tmp_path: Path, name: str) -> None:
    unit = copies(tmp_path, False) / name
    unit.write_text((DEPLOY / name).read_text())  # with the user it has: root would count
    assert exposure(analyze, unit) <= (MAX_EXPOSURE_WITH_XDP if "xdp" in name else MAX_EXPOSURE)


def test_an_edge_with_the_filter_leaves_little_open(analyze: str, tmp_path: Path) -> None:
    unit = copies(tmp_path, True) / "klais-edge.service"
    unit.write_text((DEPLOY / unit.name).read_text())
    assert exposure(analyze, unit) <= MAX_EXPOSURE_WITH_XDP


def test_each_process_has_folders_of_its_own() -> None:
    kinds = ("StateDirectory=", "CacheDirectory=")
    lines = [line for name in UNITS for line in (DEPLOY / name).read_text().splitlines() if line.startswith(kinds)]
    assert len(lines) == len(set(lines)) == 5
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        assert "UMask=0077" in text and "CacheDirectoryMode=0700" in text
        assert ("StateDirectoryMode=0700" in text) == ("StateDirectory=" in text)


def test_the_target_starts_and_stops_the_processes_of_a_machine() -> None:
    started = re.findall(r"^Wants=(.*)", (DEPLOY / "klais.target").read_text(), re.MULTILINE)
    assert started == ["klais-edge.service klais-worker.service"]
    # With its socket open, the next datagram would start the edge again.
    for name in (*started[0].split(), "klais-edge.socket"):
        assert "\nPartOf=klais.target\n" in (DEPLOY / name).read_text()


def test_a_process_that_fails_at_each_start_is_started_again_when_the_cause_is_gone() -> None:
    for name in ("klais-edge.service", "klais-worker.service"):
        head = (DEPLOY / name).read_text().partition("[Service]")[0]
        assert "\nStartLimitIntervalSec=0\n" in head, "else the socket unit fails too, and closes the port"


def test_the_kernel_grants_the_receive_buffer_that_an_edge_asks_for() -> None:
    lines = (DEPLOY / "sysctl.d" / "60-klais.conf").read_text().splitlines()
    values = dict(line.split(" = ") for line in lines if not line.startswith("#"))
    assert int(values["net.core.rmem_max"]) == Settings().udp_rcvbuf_bytes


def test_settings_are_in_a_folder_that_only_root_writes() -> None:
    lines = (DEPLOY / "tmpfiles.d" / "klais.conf").read_text().splitlines()
    assert [line.split() for line in lines if not line.startswith("#")] == [
        ["d", "/etc/klais", "0750", "root", "klais", "-"]
    ]
