"""The Debian package: apt installs it on a bare Debian 12, its commands and units work there, and it leaves again."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from klais import __version__
from klais.jit.machine import levels
from tests.support.needs import need_command, need_missing
from tests.support.process import PATIENCE

REPO = Path(__file__).parents[2]
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}  # of Debian, by their Python
SUITE = SUITES.get(sys.version_info[:2])
PACKAGES = "python3,systemd,procps,man-db"  # what it depends on, and man

if os.environ.get("KLAIS_TEST_WHEEL") == "1":  # minutes of pip, xz and mmdebstrap: `make release-test`

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=1_800 * PATIENCE, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    class Debian:
        """A bare Debian in a folder, with its own mounts and processes."""

        def __init__(self, root: Path) -> None:
            self._inside = ("unshare", "--mount", "--pid", "--fork", f"--mount-proc={root}/proc", "chroot", str(root))
            self.root = root

        def run(self, *words: str) -> str:
            env = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
            return run(*self._inside, *env, *words)

    @pytest.fixture(scope="module")
    def debian() -> Iterator[Debian]:
        if os.getuid():
            need_missing("image", "not root")
        if SUITE is None:
            need_missing("image", f"no Debian has Python {sys.version_info.major}.{sys.version_info.minor}")
        folder = Path(tempfile.mkdtemp(prefix="klais-debian-"))
        folder.chmod(0o755)
        try:
            bootstrap = [need_command("image", "mmdebstrap"), "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
            subprocess.run([*bootstrap, SUITE, f"{folder}/root"], check=True)
            made = run(sys.executable, "-m", "deploy.deb", "--out", str(folder), "--level", levels()[0]).split()[-1]
            shutil.move(made, folder / "root" / "tmp" / "klais.deb")
            yield Debian(folder / "root")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def test_apt_installs_it_and_nothing_starts_or_is_enabled(debian: Debian) -> None:
        assert "edit /etc/klais/klais.toml" in debian.run("apt-get", "install", "-y", "-q", "/tmp/klais.deb")
        assert debian.run("stat", "-c", "%U:%G %a", "/etc/klais").strip() == "root:klais 750"
        enabled = debian.root / "etc" / "systemd" / "system"
        assert [path for path in enabled.rglob("*") if "klais" in path.name] == []

    def test_its_commands_run_with_the_compiled_kernels_and_debians_python(debian: Debian) -> None:
        assert __version__ in debian.run("klais", "--version")
        assert "KLAIS_KAFKA_BOOTSTRAP" in debian.run("klais", "config", "show")
        assert "settings from /etc/klais/klais.toml" in debian.run("runuser", "-u", "klais", "klais", "config", "check")
        assert "/usr/lib/klais/" in debian.run("klais", "warm", "--quiet")
        assert re.search(r"numba +not installed", debian.run("klais", "version"))
        assert "landed" in debian.run("man", "7", "klais") and "partitions" in debian.run("man", "5", "klais.toml")
        assert "_klais" in debian.run("bash", "-c", ". /usr/share/bash-completion/completions/klais; complete -p klais")

    def test_systemd_takes_its_units(debian: Debian) -> None:
        names = [path.name for path in (REPO / "deploy").glob("klais*.[st]*") if path.is_file()]
        units = sorted(f"/lib/systemd/system/{name}" for name in names)
        assert len(units) == 5
        assert "klais" not in debian.run("systemd-analyze", "verify", "--man=no", *units)
        assert "/opt" not in "".join((debian.root / name[1:]).read_text() for name in units)

    def test_an_upgrade_keeps_your_settings_and_a_purge_keeps_frames_that_wait(debian: Debian) -> None:
        settings = debian.root / "etc" / "klais" / "klais.toml"
        settings.write_text("[kafka]\npartitions = 8\n")
        debian.run("dpkg", "--install", "/tmp/klais.deb")
        assert settings.read_text() == "[kafka]\npartitions = 8\n"
        debian.run("dpkg", "--remove", "klais")
        assert settings.exists() and not (debian.root / "usr" / "lib" / "klais").exists()
        spool = debian.root / "var" / "lib" / "klais" / "edge" / "spool-0" / "segment"
        spool.parent.mkdir(parents=True)
        spool.write_bytes(b"frames")
        assert "/var/lib/klais may hold frames" in debian.run("dpkg", "--purge", "klais")
        assert spool.exists() and not settings.parent.exists()
