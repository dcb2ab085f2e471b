"""Apache Kafka's jars: which version, where they are cached, and how they get there (Maven, by a pom of ours).

Maven's checksums come from the server that the jars come from, so ``jars.sha512`` names every jar and its SHA-512.
KLAIS compares them after the fetch and at each start of the broker (43 MB, 0.2 s).
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
SUMS = Path(__file__).with_name("jars.sha512")  # made by `sha512sum *.jar` in the folder of the jars
FETCH_WAIT_S = 1800.0
MAVEN_GRACE_S = 10.0  # between SIGTERM and SIGKILL
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
    """Put the jars into the cache, unless they are there; each is the one that ``jars.sha512`` names.

    Parameters
    ----------
    cache_dir : Path, optional
        The setting of that name.
    progress : callable
        Gets a line of text for each thing that happens.

    Returns
    -------
    Path
        Folder of the jars.

    Raises
    ------
    klais.errors.SetupMissing
        No Maven, or Maven failed; with its last lines and what to do. Or a jar is not the one that this release names.
    klais.errors.NotPrivate
        Somebody else owns the folder or a jar, or may write there.
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
        if not folder.is_dir():  # nobody else did it while we waited
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                out = Path(scratch) / "jars"
                _run_maven(maven, out, progress)
                verify(own_folder(out))
                os.rename(out, folder)
    finally:
        os.close(lock)
    return folder


def verify(folder: Path) -> None:
    """Return when the jars of ``folder`` are exactly those of ``jars.sha512``.

    Raises
    ------
    klais.errors.SetupMissing
        One is missing, too many, or another; names them and says what to do.
    klais.errors.NotPrivate
        Somebody else owns a jar or may write to it.
    """
    wanted = sums()
    found = {path.name for path in folder.glob("*.jar")}
    wrong = [f"{name}: missing" for name in sorted(wanted.keys() - found)]
    wrong += [f"{name}: not one of Kafka's" for name in sorted(found - wanted.keys())]
    for name in sorted(found & wanted.keys()):
        with open(open_own(folder / name, os.O_RDONLY), "rb") as file:
            if hashlib.file_digest(file, "sha512").hexdigest() != wanted[name]:
                wrong.append(f"{name}: its SHA-512 is another")
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SetupMissing(
            f"the jars in {folder} are not those of Apache Kafka {kafka_version()} that {SUMS} lists:\n  "
            + "\n  ".join(wrong[:5]) + more
            + f"\nremove {folder} and run `klais kafka fetch`. If it says the same again, a Maven mirror "
            "(settings.xml) or a proxy gives out other files: do not use them"
        )  # fmt: skip


def sums() -> dict[str, str]:
    """SHA-512, in hex, by the name of the jar."""
    lines = (line.split() for line in SUMS.read_text().splitlines())
    return {name: digest for digest, name in lines}


def _own_folders(folder: Path, root: Path) -> Path:
    """The cache folder and those below it down to ``folder``, each for this user alone."""
    try:
        named_folder(root, "KLAIS_CACHE_DIR")
        for part in (*reversed(folder.parents), folder):
            if part != root and part.is_relative_to(root):
                own_folder(part)
    except OSError as error:
        raise SetupMissing(f"cannot use {folder}: {error.strerror}. Name another folder with KLAIS_CACHE_DIR") from None
    return folder


def _run_maven(maven: str, out: Path, progress: Progress) -> None:
    # A copy: Maven writes beside its pom, and the package may be read-only.
    pom = out.parent / "pom.xml"
    shutil.copyfile(POM, pom)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={out}", "-DincludeScope=runtime"]
    progress(f"Apache Kafka {kafka_version()}: fetching its jars with Maven (43 MB)")
    started = time.monotonic()
    log = out.parent / "maven.log"
    # -C: a wrong checksum of Maven's is an error too.
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
    """Path of a Java that is new enough (``$JAVA_HOME/bin/java``, else ``java`` on the path).

    Raises
    ------
    klais.errors.SetupMissing
        None, or too old.
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
    """Major version of that Java, 0 when it prints none."""
    shown = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return int(found.group(1)) if found else 0
