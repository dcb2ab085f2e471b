"""An installed klais, away from its repository, brings the filter's source along and loads it."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from bench.harness.packets.netns import inside, run
from tests.support.process import PATIENCE
from tests.support.xdp import rig

REPO = Path(__file__).parents[2]


def test_an_installed_wheel_compiles_and_loads_the_filter(tmp_path: Path) -> None:
    with rig(load=False) as found:
        klais = installed(tmp_path)
        pin_dir = found.pin_dir
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KLAIS_XDP_PIN_DIR": str(pin_dir)}

        def call(*words: str) -> str:
            command = [str(klais), "xdp", *words]
            with inside(found.pair.edge):
                given = {"cwd": "/", "env": environment, "timeout": 120 * PATIENCE}
                done = subprocess.run(command, capture_output=True, text=True, check=False, **given)
            assert done.returncode == 0, done.stderr
            return done.stdout

        call("load", "--iface", found.pair.iface)  # with an empty cache: it is compiled
        assert len(list(tmp_path.rglob("*.bpf"))) == 1
        assert [at["iface"] for at in json.loads(call("status", "--json"))["attached"]] == [found.pair.iface]
        (attached,) = found.attached()
        assert attached.link.mode == "native"


def installed(folder: Path) -> Path:
    """The command ``klais`` of a venv of its own, from a wheel; what klais needs comes from where the tests run."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
    run(*pip, "wheel", "--no-deps", "-w", str(folder), str(copied(folder)))
    (wheel,) = folder.glob("klais-*.whl")
    venv.create(folder / "venv", system_site_packages=True)
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", str(python), "install", "--no-deps", str(wheel))
    site = run(str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(str(python), "-I", "-c", "import klais; print(klais.__file__)").strip()
    assert Path(where).is_relative_to(site)
    return python.parent / "klais"


def copied(folder: Path) -> Path:
    """The project's files, so that building leaves nothing behind in the repository."""
    source = folder / "source"
    source.mkdir()
    names = ("pyproject.toml", "README.md", "LICENSE", "klais", "agents", "bpf")
    run("cp", "-a", *(str(REPO / name) for name in names), str(source))
    return source
