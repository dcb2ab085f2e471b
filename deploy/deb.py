"""``python -m deploy.deb``: a Debian package in ``dist``, for the Python version of ``.venv`` and this architecture.

It holds the wheel of :mod:`deploy.wheel` and the packages that it needs, each verified by its SHA-256 of
``requirements-dev.lock``, below ``/usr/lib/klais``; the units of ``deploy``, settings, man pages and completions. It
runs with Debian's Python of that version, without numba and without a compiler, on CPUs of the levels that it has
libraries for.
"""

import argparse
import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.wheel import ROOT, WheelError
from deploy.wheel import build as build_wheel
from klais import __version__
from klais.cli.man import pages
from klais.jit.machine import levels

SCRIPTS = ROOT / "deploy" / "debian"
HOME = Path("usr/lib/klais")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = HOME / "lib" / PYTHON / "site-packages"
CONFFILES = ("klais.toml", "edge.env", "worker.env", "xdp.env")
# Only the compiler of kernels needs these two; the wheel brings kernels that are compiled.
NOT_NEEDED = ("numba", "llvmlite")
SHELLS = {
    "bash": "usr/share/bash-completion/completions/klais",
    "zsh": "usr/share/zsh/vendor-completions/_klais",
    "fish": "usr/share/fish/vendor_completions.d/klais.fish",
}
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==[^\n]*\n(?:[ \t]+[^\n]*\n)*", re.MULTILINE)
_START = f"""#!/{HOME}/bin/python3 -P
import sys

from klais.cli.main import main

sys.exit(main())
"""


class PackageError(Exception):
    """The package cannot be built; says why."""


def locked() -> str:
    """The entries of the packages that run, with the hashes of all their files.

    Raises
    ------
    PackageError
        The lock of the tests lacks one of them.
    """
    image = (ROOT / "requirements.lock").read_text("utf-8")
    wanted = {name.lower() for name in _ENTRY.findall(image)} - set(NOT_NEEDED)
    tests = (ROOT / "requirements-dev.lock").read_text("utf-8")
    every = {found[1].lower(): found[0] for found in _ENTRY.finditer(tests)}
    if missing := wanted - set(every):
        raise PackageError(f"requirements-dev.lock has no {', '.join(sorted(missing))}: run bin/lock")
    return "".join(every[name] for name in sorted(wanted))


def unit(text: str) -> str:
    """A unit of ``deploy`` with the package's paths."""
    return text.replace("/opt/klais/.venv/bin/klais", "/usr/bin/klais").replace("=/opt/klais\n", f"=/{HOME}\n")


def control(size_kib: int) -> str:
    """The package's description, in the form of Debian's file ``control``."""
    minor = sys.version_info.minor
    values = {
        "VERSION": f"{__version__}-1",
        "ARCHITECTURE": _output("dpkg", "--print-architecture"),
        "SIZE": str(size_kib),
        "PYTHON": f"{PYTHON}, python3 (>= 3.{minor}), python3 (<< 3.{minor + 1})",
        "LIBC": platform.libc_ver()[1],
    }
    text = (SCRIPTS / "control").read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def install_python(root: Path, wheel: Path) -> None:
    """The virtual environment below ``usr/lib/klais``: pip and numba are not in it, the interpreter is Debian's."""
    site, binaries = root / SITE, root / HOME / "bin"
    site.mkdir(parents=True)
    binaries.mkdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(locked())
        file.flush()
        _output(*pip, "--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(site), "-r", file.name)
    _output(*pip, "--no-deps", "--target", str(site), str(wheel))
    shutil.rmtree(site / "bin")  # their first lines name the Python of this machine
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (root / HOME / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\nexecutable = /usr/bin/{PYTHON}\n"
    )
    for name in ("python3", "python"):
        (binaries / name).symlink_to(f"/usr/bin/{PYTHON}")
    (binaries / "klais").write_text(_START)
    (binaries / "klais").chmod(0o755)
    (root / "usr" / "bin").mkdir()
    (root / "usr" / "bin" / "klais").symlink_to(f"../lib/{HOME.name}/bin/klais")


def install_system(root: Path) -> None:
    """Units, user, limits of the kernel, settings."""
    units = root / "lib" / "systemd" / "system"  # Debian 12 has them there, later ones link it to usr/lib
    for path in sorted((ROOT / "deploy").glob("klais*.*")):
        if path.suffix in (".service", ".socket", ".target"):
            _write(units / path.name, unit(path.read_text("utf-8")))
    drop_in = ROOT / "deploy" / "klais-edge.service.d" / "xdp.conf"
    _write(root / "usr/share/doc/klais/examples/klais-edge.service.d/xdp.conf", drop_in.read_text("utf-8"))
    for kind, file in (("sysctl.d", "60-klais.conf"), ("tmpfiles.d", "klais.conf")):
        _write(root / "usr" / "lib" / kind / file, (ROOT / "deploy" / kind / file).read_text("utf-8"))
    _write(root / "usr/lib/sysusers.d/klais.conf", (SCRIPTS / "sysusers.conf").read_text("utf-8"))
    for name in CONFFILES[1:]:
        _write(root / "etc/klais" / name, (SCRIPTS / name).read_text("utf-8"))
    _write(root / "etc/klais/klais.toml", _klais("config", "init", "-"))


def install_texts(root: Path) -> None:
    """Man pages, completions, licence, changes."""
    for name, text in pages().items():
        _write_compressed(root / "usr/share/man" / f"{name}.gz", text)
    for shell, place in SHELLS.items():
        _write(root / place, _klais("completion", shell))
    doc = root / "usr/share/doc/klais"
    _write(doc / "copyright", (SCRIPTS / "copyright").read_text("utf-8"))
    _write_compressed(doc / "changelog.gz", (ROOT / "CHANGELOG.md").read_text("utf-8"))


def install_control(root: Path) -> None:
    """``DEBIAN``: the description, the sums of all files, and the scripts."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    sums = "".join(f"{_md5(path)}  {path.relative_to(root)}\n" for path in files if path.parts[-3] != "etc")
    _write(root / "DEBIAN/md5sums", sums)
    _write(root / "DEBIAN/control", control(sum(path.stat().st_size for path in files) // 1024))
    _write(root / "DEBIAN/conffiles", "".join(f"/etc/klais/{name}\n" for name in CONFFILES))
    for name in ("postinst", "prerm", "postrm"):
        text = (SCRIPTS / name).read_text("utf-8").replace("@PYTHON_PATH@", f"/usr/bin/{PYTHON}")
        _write(root / "DEBIAN" / name, text)
        (root / "DEBIAN" / name).chmod(0o755)


def build(out: Path, wanted: list[str]) -> Path:
    """Make the package in ``out``; returns its path.

    Raises
    ------
    PackageError, deploy.wheel.WheelError
        It cannot be made.
    klais.errors.SetupMissing
        The kernels cannot be compiled.
    """
    if shutil.which("dpkg-deb") is None:
        raise PackageError("no command dpkg-deb: run this on Debian, with its package dpkg")
    with tempfile.TemporaryDirectory(prefix="klais-deb-") as folder:
        root = Path(folder) / "root"
        wheel = build_wheel(Path(folder), wanted, audit=False)
        root.mkdir(mode=0o755)
        install_python(root, wheel)
        install_system(root)
        install_texts(root)
        install_control(root)
        _output("chmod", "-R", "u=rwX,go=rX", str(root))  # whatever the umask is
        out.mkdir(parents=True, exist_ok=True)
        architecture = _output("dpkg", "--print-architecture")
        made = out / f"klais_{__version__}-1_{architecture}.deb"
        _output("dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--build", str(root), str(made))
        return made


def _klais(*words: str) -> str:
    """What a klais command prints, without the settings of this machine."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KLAIS_")}
    return _output(sys.executable, "-m", "klais", "--config", "none", *words, env=env | {"SHELL": "/bin/bash"}) + "\n"


def _output(*words: str, env: dict[str, str] | None = None) -> str:
    no_input = subprocess.DEVNULL
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, stdin=no_input, check=False)
    if done.returncode:
        text = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise PackageError(f"{Path(words[0]).name} {' '.join(words[1:4])}: {text}")
    return done.stdout.strip()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _write_compressed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def main(arguments: list[str]) -> int:
    """Make it and print where it is; 1 when it cannot be made."""
    parser = argparse.ArgumentParser("python -m deploy.deb", description=__doc__)
    parser.add_argument("--level", action="append", help="of CPUs, as of klais warm; may be given several times")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder (dist)")
    options = parser.parse_args(arguments)
    common = ["x86-64-v2", "x86-64-v3"] if platform.machine() == "x86_64" else levels()[:1]
    try:
        print(build(options.out, options.level or common))
    except (PackageError, WheelError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
