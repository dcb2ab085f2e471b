"""The image: built from the Dockerfile without an engine, on a base of Debian's packages; its edge answers.

It takes some minutes, most of them pip's and numba's, so it is part of `make release-test`.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from klais import __version__
from klais.core.wire.constants import encode_frame
from tests.support.needs import need_command, need_missing
from tests.support.ports import free_port
from tests.support.process import HTTP_S, kill_hard, wait_for

REPO = Path(__file__).parents[2]
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
SUITE = "bookworm"  # its Python is one that KLAIS takes
CERTIFICATES = "/etc/ssl/certs"  # pip in the build trusts whom this machine trusts


class Builder:
    """buildah without an engine, a daemon or overlay mounts: plain folders, and chroot in place of namespaces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._base = [need_command("image", "buildah"), "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
        self._base += ["--storage-driver", "vfs"]

    def command(self, *words: str) -> list[str]:
        return [*self._base, *words]

    def run(self, *words: str, **more: Any) -> str:
        ran = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, **more)
        assert ran.returncode == 0, f"{words}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
        return ran.stdout


@pytest.fixture(scope="module")
def image() -> Iterator[tuple[Builder, str]]:
    """The builder, and a container of the image."""
    if os.environ.get("KLAIS_TEST_IMAGE") != "1":
        need_missing("image", "set KLAIS_TEST_IMAGE=1")
    if os.getuid():
        need_missing("image", "not root")
    folder = Path(tempfile.mkdtemp(prefix="klais-image-"))
    try:
        builder = Builder(folder)
        bootstrap = [need_command("image", "mmdebstrap"), "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        subprocess.run([*bootstrap, SUITE, f"{folder}/base.tar"], check=True)
        base = builder.run("from", "scratch").strip()
        builder.run("add", base, f"{folder}/base.tar", "/")
        builder.run("commit", base, "klais-base")
        mounts = ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        builder.run(
            "bud", "--isolation", "chroot", "--network", "host", "--format", "docker", *mounts,
            "--build-arg", "PYTHON_IMAGE=localhost/klais-base", "--tag", "klais", "--file", "docker/Dockerfile", ".",
            cwd=REPO,
        )  # fmt: skip
        yield builder, builder.run("from", "localhost/klais").strip()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def klais(builder: Builder, container: str, *words: str, **env: str) -> list[str]:
    """The command that runs the image's entry point."""
    more = [option for name, value in env.items() for option in ("--env", f"{name}={value}")]
    return builder.command("run", "--isolation", "chroot", "--network", "host", *more, container, "--", "klais", *words)


def test_the_image_runs_as_nobody_special_and_its_commands_work(image: tuple[Builder, str]) -> None:
    builder, container = image
    config = orjson.loads(builder.run("inspect", "--type", "image", "localhost/klais"))["OCIv1"]["config"]
    assert config["User"] == "klais" and config["Entrypoint"] == ["klais"] and config["StopSignal"] == "SIGTERM"
    for words in (["version"], ["config", "check"], ["warm", "--quiet"]):
        ran = subprocess.run(klais(builder, container, *words), capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert words != ["version"] or __version__ in ran.stdout


def test_the_image_has_its_kernels_when_an_older_volume_hides_the_cache(image: tuple[Builder, str]) -> None:
    builder, container = image
    use = "from klais.jit.library import open_library; open_library()"
    env = ("--env", "KLAIS_CACHE_DIR=/tmp/older")
    builder.run("run", "--isolation", "chroot", *env, container, "--", "/opt/klais/bin/python", "-P", "-c", use)


def test_an_edge_of_the_image_receives_and_answers_its_probe(image: tuple[Builder, str], tmp_path: Path) -> None:
    builder, container = image
    api, udp = free_port(), free_port(kind="udp")
    command = klais(
        builder, container, "edge", KLAIS_KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}",
        KLAIS_API_BIND=f"127.0.0.1:{api}", KLAIS_UDP_BIND=f"127.0.0.1:{udp}",
    )  # fmt: skip
    log = tmp_path / "edge.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)

    def get(path: str) -> Any:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{api}{path}", timeout=HTTP_S) as answer:
                return orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return orjson.loads(error.read())
        except OSError:
            return None

    try:
        wait_for(lambda: (get("/livez") or {}).get("live"), 60, log.read_text)
        assert get("/readyz")["ready"] is True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(10):
                sock.sendto(encode_frame("dev-1", number, b"{}"), ("127.0.0.1", udp))
        wait_for(lambda: get("/stats")["edge"]["counters"]["received"] == 10, 30, log.read_text)
    finally:
        os.killpg(process.pid, 15)
        try:
            process.wait(60)
        finally:
            kill_hard(process)
