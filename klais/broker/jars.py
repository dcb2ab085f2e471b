"""Apache Kafka's jars: their version, their cache, and their download (Maven, with a pom of KLAIS).

Maven gets its checksums from the server of the jars, so ``jars.sha512`` lists every jar with its SHA-512. KLAIS
compares them after the download and at each start of the broker (43 MB, 0.2 s).
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from klais.errors import SetupMissing
from klais.system.child import OwnedChild
from klais.system.file_lock import lock_file
from klais.system.paths import cache_root
from klais.system.private_files import named_folder, open_own, own_folder

POM = Path(__file__).with_name("pom.xml")
SUMS = Path(__file__).with_name("jars.sha512")  # created by `sha512sum *.jar` in the folder of the jars
FETCH_WAIT_S = 1800.0
MAVEN_GRACE_S = 10.0  # between SIGTERM and SIGKILL
MIN_JAVA = 17
Progress = Callable[[str], None]


def kafka_version() -> str:
    """The version in the pom."""
    found = re.search(r"<kafka\.version>([^<]+)<", POM.read_text())
    assert found is not None, f"{POM} names no kafka.version"
    return found.group(1)


def jars_dir(cache_dir: Path | None = None) -> Path:
    """The folder of the jars; it is created only when it is complete."""
    return cache_root(cache_dir) / "kafka" / kafka_version() / "jars"


def fetch(cache_dir: Path | None = None, progress: Progress = print) -> Path:
    """Download the jars into the cache if they are missing, and verify them against ``jars.sha512``.

    Parameters
    ----------
    cache_dir : Path, optional
        The setting of that name.
    progress : callable
        Called with a line of text for each event.

    Returns
    -------
    Path
        Folder of the jars.

    Raises
    ------
    klais.errors.SetupMissing
        If Maven is missing or failed, with its last lines and a fix, or a jar differs from that of this release.
    klais.errors.NotPrivate
        If another user owns the folder or a jar, or has write access.
    """
    folder = jars_dir(cache_dir)
    if folder.is_dir():
        verify(_own_folders(folder, cache_root(cache_dir)))
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise SetupMissing(
            f"Apache Kafka {kafka_version()} is not in {folder} and Maven, which fetches it, is not installed: "
            "`apt-get install maven` (or run `make setup`), or name a cluster with KLAIS_KAFKA_BOOTSTRAP"
        )
    parent = _own_folders(folder.parent, cache_root(cache_dir))
    lock = lock_file(parent / ".lock", f"the fetch into {parent}", FETCH_WAIT_S, progress)
    try:
        if not folder.is_dir():  # no other process has done it in between
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                out = Path(scratch) / "jars"
                _run_maven(maven, out, progress)
                verify(own_folder(out))
                os.rename(out, folder)
    finally:
        os.close(lock)
    return folder


def verify(folder: Path) -> None:
    """Return if the jars of ``folder`` are exactly those of ``jars.sha512``.

    Raises
    ------
    klais.errors.SetupMissing
        If one is missing, additional, or different; lists them with a fix.
    klais.errors.NotPrivate
        If another user owns a jar or has write access to it.
    """
    wanted = sums()
    found = {path.name for path in folder.glob("*.jar")}
    wrong = [f"{name}: missing" for name in sorted(wanted.keys() - found)]
    wrong += [f"{name}: not a jar of Kafka" for name in sorted(found - wanted.keys())]
    for name in sorted(found & wanted.keys()):
        with open(open_own(folder / name, os.O_RDONLY), "rb") as file:
            if hashlib.file_digest(file, "sha512").hexdigest() != wanted[name]:
                wrong.append(f"{name}: its SHA-512 differs")
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SetupMissing(
            f"the jars in {folder} are not those of Apache Kafka {kafka_version()} that {SUMS} lists:\n  "
            + "\n  ".join(wrong[:5]) + more
            + f"\nremove {folder} and run `klais kafka fetch`. If the error remains, a Maven mirror "
            "(settings.xml) or a proxy serves other files: do not use them"
        )  # fmt: skip


def sums() -> dict[str, str]:
    """SHA-512, in hex, by name of the jar."""
    lines = (line.split() for line in SUMS.read_text().splitlines())
    return {name: digest for digest, name in lines}


def _own_folders(folder: Path, root: Path) -> Path:
    """Create the cache folder and those below it down to ``folder``, each private to this user."""
    try:
        named_folder(root, "KLAIS_CACHE_DIR")
        for part in (*reversed(folder.parents), folder):
            if part != root and part.is_relative_to(root):
                own_folder(part)
    except OSError as error:
        raise SetupMissing(f"cannot use {folder}: {error.strerror}. Set KLAIS_CACHE_DIR to another folder") from None
    return folder


def _run_maven(maven: str, out: Path, progress: Progress) -> None:
    # A copy: Maven writes next to its pom, and the package may be read-only.
    pom = out.parent / "pom.xml"
    shutil.copyfile(POM, pom)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={out}", "-DincludeScope=runtime"]
    progress(f"Apache Kafka {kafka_version()}: fetching its jars with Maven (43 MB)")
    started = time.monotonic()
    log = out.parent / "maven.log"
    # -C: a wrong checksum of Maven is also an error.
    process = OwnedChild([maven, "-B", "-ntp", "-C", "-f", str(pom), *goal], log)
    try:
        while not process.wait(10):
            progress(f"Apache Kafka {kafka_version()}: still fetching, {time.monotonic() - started:.0f} s")
    finally:
        process.stop(MAVEN_GRACE_S)
    if process.returncode != 0 or not any(out.glob("kafka_*.jar")):
        last = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line][:5]
        raise SetupMissing("Maven could not fetch Apache Kafka:\n  " + "\n  ".join(last or ["(no message)"]))
    progress(f"Apache Kafka {kafka_version()}: fetched in {time.monotonic() - started:.0f} s")


def find_java() -> str:
    """Path of a recent enough Java (``$JAVA_HOME/bin/java``, else ``java`` on the path).

    Raises
    ------
    klais.errors.SetupMissing
        If there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    named = Path(home) / "bin" / "java" if home else None
    java = str(named) if named and named.exists() else shutil.which("java")
    advice = (
        "`apt-get install openjdk-17-jre-headless` (or run `make setup`), or name a cluster with KLAIS_KAFKA_BOOTSTRAP"
    )
    if java is None:
        raise SetupMissing(f"no Java found, and the embedded Kafka needs Java {MIN_JAVA} or newer: {advice}")
    version = java_version(java)
    if version < MIN_JAVA:
        raise SetupMissing(f"{java} is Java {version}, and the embedded Kafka needs {MIN_JAVA} or newer: {advice}")
    return java


def java_version(java: str) -> int:
    """Major version of that Java, 0 if it prints none."""
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(found.group(1)) if found else 0
