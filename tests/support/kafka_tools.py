"""Jars of Apache Kafka that the broker does not need, verified by SHA-512: command-line tools, Kafka Streams.

``python -m tests.support.kafka_tools`` fetches the tools (`bin/setup --tests` does so).
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

VERSION = "4.4.0"
SHA512 = {
    "kafka-tools": "446ec5398b8428b13dddcee5e4935cad51e0b57e09b3d91fea639089f1fd6ed1"
    "5d6fb9282615d2bd280e58d6b971a453aedb18c72e1f6c94d130935850306824",
    "kafka-streams": "a78f7a07290c66985ae2f736c73962720b3fdac737730c36ac23df6373585c7f"
    "6f116441170ecc62515e0c23a946f76f864aa35fab7192cde5755adafb52dc85",
}
FETCH_S = 300


def fetch(artifact: str) -> Path:
    """The jar of one of ``SHA512``, from the cache or from Maven.

    Raises
    ------
    SetupMissing
        If Maven is missing or fails, or the jar has another hash.
    """
    assert kafka_version() == VERSION, "the broker's version has changed: name the SHA-512 of its jars here"
    jar = f"{artifact}-{VERSION}.jar"
    path = cache_root(None) / artifact / jar
    if not path.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise SetupMissing(f"{path} is not there, and Maven is not installed")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            goal = ["dependency:copy", f"-Dartifact=org.apache.kafka:{artifact}:{VERSION}"]
            command = [maven, "-B", "-ntp", "-C", "-q", *goal, f"-DoutputDirectory={folder}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, cwd=folder)
            if done.returncode:
                raise SetupMissing(f"Maven could not fetch {jar}: {done.stdout[-500:]}")
            os.rename(Path(folder) / jar, path)
    if hashlib.sha512(path.read_bytes()).hexdigest() != SHA512[artifact]:
        raise SetupMissing(f"{path} is not the jar that the tests name: remove it")
    return path


def classpath(need: str, artifact: str) -> str:
    """Class path of one of ``SHA512`` with the broker's jars; skips (or fails) if it is missing."""
    try:
        return f"{jars_dir()}/*:{fetch(artifact)}"
    except (SetupMissing, subprocess.TimeoutExpired) as error:
        need_missing(need, str(error))


def kafka_tool(name: str, *arguments: str) -> str:
    """Output of a tool, by its class below ``org.apache.kafka.tools``; skips (or fails) if it is missing."""
    jars = classpath("kafka-tools", "kafka-tools")
    command = [find_java(), "-Xmx256m", "-cp", jars, f"org.apache.kafka.tools.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    print(fetch("kafka-tools"))
