"""The Debian package's parts: what it installs, where its units look, and that its scripts parse."""

import re
import subprocess
from pathlib import Path

import pytest

from deploy.deb import CONFFILES, NOT_NEEDED, ROOT, SCRIPTS, control, install_system, locked, unit
from tests.support.needs import need_command


def test_it_has_the_packages_of_the_image_except_the_compiler_each_with_hashes() -> None:
    entries = [entry for entry in locked().replace("\\\n", " ").splitlines() if entry]
    assert all(re.fullmatch(r"\S+==\S+( +--hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    image = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    packed = dict(entry.split()[0].split("==") for entry in entries)
    assert set(image) - set(packed) == set(NOT_NEEDED)
    assert packed == {name: image[name] for name in packed}


def test_units_name_files_that_the_package_installs() -> None:
    for path in (ROOT / "deploy").glob("*.service"):
        text = unit(path.read_text())
        assert "/usr/bin/klais " in text and "/opt" not in text, path.name
        assert set(re.findall(r"/etc/klais/([\w-]+\.env)", text)) <= set(CONFFILES), path.name


def test_settings_units_and_user_have_their_places(tmp_path: Path) -> None:
    install_system(tmp_path)
    assert {path.name for path in (tmp_path / "etc" / "klais").iterdir()} == set(CONFFILES)
    lines = (tmp_path / "etc" / "klais" / "klais.toml").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith(("#", "["))] == [], "no setting of this machine"
    assert len(list((tmp_path / "lib" / "systemd" / "system").iterdir())) == 5
    assert "u klais " in (tmp_path / "usr" / "lib" / "sysusers.d" / "klais.conf").read_text()


def test_the_description_has_all_its_values() -> None:
    need_command("image", "dpkg")
    text = control(1234)
    assert "@" not in text.replace("root@localhost", "") and "Installed-Size: 1234\n" in text
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith(" "))


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_scripts_of_the_package_parse(name: str) -> None:
    subprocess.run(["sh", "-n", str(SCRIPTS / name)], check=True)
    assert "enable --now" not in re.sub(r'echo ".*"', "", (SCRIPTS / name).read_text()), "a person starts KLAIS"


def test_a_removal_closes_the_port_before_it_stops_the_edge() -> None:
    """Else the next datagram starts the edge between the two."""
    stopped = re.search(r"for unit in (.*); do", (SCRIPTS / "prerm").read_text())
    assert stopped is not None
    units = stopped[1].split()
    assert units.index("klais-edge.socket") < units.index("klais-edge.service")
    assert {path.name for path in (ROOT / "deploy").glob("klais*.*") if path.is_file()} == set(units)
