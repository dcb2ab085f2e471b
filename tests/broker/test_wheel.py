"""The wheel with compiled kernels: an edge from it runs where there is no numba, no linker and no cache."""

import os
import re
import socket
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

from klais.config.load import Settings, environ_of
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.jit.machine import levels
from klais.kafka.topics import Topics
from klais.system.address import split_address
from klais.system.ports import free_port
from tests.support.edge import read_all
from tests.support.process import HTTP_S, PATIENCE, wait_for

if os.environ.get("KLAIS_TEST_WHEEL") == "1":  # it compiles all kernels where the cache has none: `make release-test`
    REPO = Path(__file__).parents[2]
    FORBIDDEN = REPO / "tests" / "support" / "without_numba"

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=1_800 * PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_an_edge_from_the_wheel_runs_without_numba_and_compiler(
        settings_for: Callable[..., Settings], topics_of: Callable[[Settings], Topics], tmp_path: Path
    ) -> None:
        wheel = Path(run(sys.executable, "-m", "deploy.wheel", "--out", str(tmp_path), "--no-audit"))
        assert re.fullmatch(r"klais-[\w.]+-cp3\d+-cp3\d+-linux_\w+\.whl", wheel.name)
        with zipfile.ZipFile(wheel) as archive:
            (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
            needs = re.findall(r"^Requires-Dist: (numba.*)$", archive.read(metadata).decode(), re.MULTILINE)
        assert needs and all("extra ==" in need for need in needs)

        venv.create(tmp_path / "venv", with_pip=False)
        python = tmp_path / "venv" / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel))
        site = run(str(python), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        (Path(site) / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")  # of what klais needs

        binds = {"udp_bind": f"127.0.0.1:{free_port(kind='udp')}", "api_bind": f"127.0.0.1:{free_port()}"}
        settings = settings_for(partitions=1, **binds)
        topics = topics_of(settings)
        env = environ_of(settings) | {"PATH": str(python.parent), "HOME": str(tmp_path), "PYTHONPATH": str(FORBIDDEN)}
        env["KLAIS_CACHE_DIR"] = str(tmp_path / "cache")
        log = tmp_path / "edge.log"
        with log.open("wb") as out:
            command = [str(python.parent / "klais"), "edge"]
            edge = subprocess.Popen(command, cwd="/", env=env, stdout=out, stderr=out)
        try:

            def healthy() -> bool:
                assert edge.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(f"http://{settings.api_bind}/health", timeout=HTTP_S) as answer:
                        return bool(answer.status == 200)
                except OSError:
                    return False

            wait_for(healthy, 60, lambda: f"the edge receives; its log ends:\n{log.read_text()[-2000:]}")
            mapped = Path(f"/proc/{edge.pid}/maps").read_text()
            (library,) = set(re.findall(r"\S+/kernels\.so", mapped))
            assert Path(library).is_relative_to(site) and Path(library).parent.name == levels()[0]
            frames = [encode_frame("dev", n, b'{"t":%d}' % n) for n in range(10)]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for frame in frames:
                    sock.sendto(frame, split_address(settings.udp_bind))

            def landed() -> list[bytes]:
                batches = [decode_batch(r.value()) for r in read_all(settings.bootstrap, topics.raw, 1)]
                return [batch.frame(i) for batch in batches for i in range(batch.count)]

            wait_for(lambda: len(landed()) >= 10, 30, "10 frames in klais_raw")
            assert landed() == frames
        finally:
            edge.terminate()
            edge.wait(60 * PATIENCE)
