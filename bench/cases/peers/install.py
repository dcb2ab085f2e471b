"""``python -m bench peers --install``: each peer into a folder of its own. No service starts, nothing else changes."""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.cases.peers.catalog import ALL, Peer, folder, missing

LIMIT_S = 900
Say = Callable[[str], None]


class CannotInstall(Exception):
    """A peer cannot be had; says why."""


def install(peers: Sequence[Peer] = ALL, say: Say = lambda text: print(text, file=sys.stderr, flush=True)) -> int:
    """Install what is missing; the number of peers that cannot be had. Their reason is kept for later runs."""
    failed = 0
    for peer in peers:
        if missing(peer) is None:
            say(f"{peer.title}: there")
            continue
        where = folder(peer)
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        say(f"{peer.title}: into {where}")
        try:
            _debian(peer, where) if peer.debian else _python(peer, where)
            if missing(peer) is not None:
                raise CannotInstall(f"its packages have no {peer.program}")
        except (CannotInstall, OSError) as error:
            failed += 1
            (where / "why-not.txt").write_text(f"cannot be installed: {error}\n")
            say(f"{peer.title}: {error}")
    return failed


def _debian(peer: Peer, where: Path) -> None:
    """Download its packages, with those of their dependencies that the system lacks, and unpack them."""
    archives = where / "archives"
    (archives / "partial").mkdir(parents=True)
    options = [f"Dir::Cache::archives={archives}", "Debug::NoLocking=1", "APT::Sandbox::User=root"]
    words = [word for option in options for word in ("-o", option)]
    _run("apt-get", "install", "-y", "--no-install-recommends", "--download-only", *words, *peer.debian)
    packages = sorted(archives.glob("*.deb"))
    if not packages:  # they are installed
        _run("apt-get", "download", *words, *peer.debian, cwd=archives)
        packages = sorted(archives.glob("*.deb"))
    for package in packages:
        _run("dpkg", "-x", str(package), str(where / "root"))


def _python(peer: Peer, where: Path) -> None:
    venv.create(where / "venv", with_pip=True)
    pip = (str(where / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input")
    _run(*pip, "install", "--only-binary=:all:", *peer.python)


def _run(*words: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            words, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"{words[0]} took more than {LIMIT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise CannotInstall(f"{' '.join(words[:3])}: {last}")
