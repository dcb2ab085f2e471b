"""Kafka's own command-line tools, for tests: one jar more than the broker needs, by its SHA-512.

``python -m tests.support.kafka_tools`` fetches it (`bin/setup --tests` does so).
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from klais.broker.jars import find_java, jars_dir, kafka_version
from klais.errors import SetupMissing
from klais.system.paths import cache_root
from tests.support.needs import need_missing

JAR = "kafka-tools-4.4.0.jar"
SHA512 = (
    "446ec5398b8428b13dddcee5e4935cad51e0b57e09b3d91fea639089f1fd6ed1"
    "5d6fb9282615d2bd280e58d6b971a453aedb18c72e1f6c94d130935850306824"
)
FETCH_S = 300


def fetch() -> Path:
    """The jar, from the cache or from Maven.

    Raises
    ------
    SetupMissing
        There is no Maven, it failed, or the jar is another.
    """
    assert kafka_version() in JAR, "the broker's version has changed: name that jar's SHA-512 here"
    path = cache_root(None) / "kafka-tools" / JAR
    if not path.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise SetupMissing(f"{path} is not there, and Maven is not installed")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            goal = ["dependency:copy", f"-Dartifact=org.apache.kafka:kafka-tools:{kafka_version()}"]
            command = [maven, "-B", "-ntp", "-C", "-q", *goal, f"-DoutputDirectory={folder}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, cwd=folder)
            if done.returncode:
                raise SetupMissing(f"Maven could not fetch {JAR}: {done.stdout[-500:]}")
            os.rename(Path(folder) / JAR, path)
    if hashlib.sha512(path.read_bytes()).hexdigest() != SHA512:
        raise SetupMissing(f"{path} is not the jar that the tests name: remove it")
    return path


def kafka_tool(name: str, *arguments: str) -> str:
    """What a tool prints, by its class below ``org.apache.kafka.tools``; skips (or fails) where it is missing."""
    try:
        classpath, java = f"{jars_dir()}/*:{fetch()}", find_java()
    except (SetupMissing, subprocess.TimeoutExpired) as error:
        need_missing("kafka-tools", str(error))
    command = [java, "-Xmx256m", "-cp", classpath, f"org.apache.kafka.tools.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    print(fetch())
