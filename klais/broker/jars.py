"""Apache Kafka's jars: which version, where they are cached, and how they get there (Maven, by a pom of ours)."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from klais.errors import SetupMissing
from klais.system.paths import cache_root

POM = Path(__file__).with_name("pom.xml")
MIN_JAVA = 17
Progress = Callable[[str], None]


def kafka_version() -> str:
    """The version that the pom names."""
    found = re.search(r"<kafka\.version>([^<]+)<", POM.read_text())
    assert found is not None, f"{POM} names no kafka.version"
    return found.group(1)


def jars_dir(cache_dir: Path | None = None) -> Path:
    """Where the jars are, or will be; the folder appears only when it is complete."""
    return cache_root(cache_dir) / "kafka" / kafka_version() / "jars"


def fetch(cache_dir: Path | None = None, progress: Progress = print) -> Path:
    """Put the jars into the cache, unless they are there.

    Parameters
    ----------
    cache_dir : Path, optional
        The setting of that name.
    progress : callable
        Is told, in words, what goes on.

    Returns
    -------
    Path
        Folder of the jars.

    Raises
    ------
    klais.errors.SetupMissing
        No Maven, or Maven failed; with its last lines and what to do.
    """
    folder = jars_dir(cache_dir)
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise SetupMissing(
            f"Apache Kafka {kafka_version()} is not in {folder} and Maven, which fetches it, is not installed: "
            "`apt-get install maven` (or run `make setup`), or name a cluster with KLAIS_KAFKA_BOOTSTRAP"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():  # nobody else did it while we waited
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _run_maven(maven, Path(scratch) / "jars", progress)
                os.rename(Path(scratch) / "jars", folder)
    return folder


def _run_maven(maven: str, out: Path, progress: Progress) -> None:
    # A copy, because Maven wants to write beside its pom and the package may be read-only.
    pom = out.parent / "pom.xml"
    shutil.copyfile(POM, pom)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={out}", "-DincludeScope=runtime"]
    progress(f"Apache Kafka {kafka_version()}: fetching its jars with Maven (43 MB)")
    started = time.monotonic()
    with open(out.parent / "maven.log", "w+") as log:
        command = [maven, "-B", "-ntp", "-f", str(pom), *goal]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    progress(f"Apache Kafka {kafka_version()}: still fetching, {time.monotonic() - started:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode != 0 or not any(out.glob("kafka_*.jar")):
            log.seek(0)
            last = [line for line in log.read().splitlines() if "ERROR" in line][:5]
            raise SetupMissing("Maven could not fetch Apache Kafka:\n  " + "\n  ".join(last or ["(no message)"]))
    progress(f"Apache Kafka {kafka_version()}: fetched in {time.monotonic() - started:.0f} s")


def find_java() -> str:
    """Path of a Java that is new enough (``$JAVA_HOME/bin/java``, else ``java`` on the path).

    Raises
    ------
    klais.errors.SetupMissing
        None, or too old.
    """
    home = os.environ.get("JAVA_HOME")
    named = Path(home) / "bin" / "java" if home else None
    java = str(named) if named and named.exists() else shutil.which("java")
    advice = "`apt-get install openjdk-17-jre-headless` (or run `make setup`), or name a cluster with KLAIS_KAFKA_BOOTSTRAP"
    if java is None:
        raise SetupMissing(f"no Java found, and the embedded Kafka needs Java {MIN_JAVA} or newer: {advice}")
    version = java_version(java)
    if version < MIN_JAVA:
        raise SetupMissing(f"{java} is Java {version}, and the embedded Kafka needs {MIN_JAVA} or newer: {advice}")
    return java


def java_version(java: str) -> int:
    """Major version of that Java, 0 when it does not say."""
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(found.group(1)) if found else 0
