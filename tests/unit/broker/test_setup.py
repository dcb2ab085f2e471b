"""Jars, Java and the broker's properties, without starting anything."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.broker import jars
from klais.broker.config import BrokerFiles, jvm_flags, server_properties
from klais.broker.embedded import EmbeddedKafka, read_owner, running_owner
from klais.config.load import Settings
from klais.errors import NotPrivate, SetupMissing


def _program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, so that no Java and no Maven is found."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def test_no_java_says_what_to_install(only_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupMissing, match="apt-get install openjdk-17-jre-headless") as caught:
        EmbeddedKafka(Settings(state_dir=tmp_path / "state")).start()
    assert "KLAIS_KAFKA_BOOTSTRAP" in str(caught.value)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("line", "major"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_402"', 8), ('openjdk version "21" 2023', 21)],
)
def test_version_of_java(only_path: Path, line: str, major: int) -> None:
    _program(only_path, "java", f"echo '{line}' >&2")
    assert jars.java_version(str(only_path / "java")) == major


def test_old_java_is_refused_and_java_home_wins(
    only_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(only_path, "java", "echo 'openjdk version \"11.0.2\"' >&2")
    with pytest.raises(SetupMissing, match=r"Java 11.*needs 17"):
        jars.find_java()
    (tmp_path / "home").mkdir()
    _program(tmp_path / "home" / "bin", "java", "echo 'openjdk version \"21.0.1\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert jars.find_java() == str(tmp_path / "home" / "bin" / "java")


def test_no_maven_says_what_to_install(only_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupMissing, match="apt-get install maven"):
        jars.fetch(tmp_path / "cache")


def test_maven_that_fails_is_quoted_and_leaves_no_half_folder(only_path: Path, tmp_path: Path) -> None:
    _program(only_path, "mvn", "echo '[INFO] noise'; echo '[ERROR] no such artifact'; exit 1")
    with pytest.raises(SetupMissing, match="no such artifact") as caught:
        jars.fetch(tmp_path / "cache", lambda text: None)
    assert "noise" not in str(caught.value)
    assert not jars.jars_dir(tmp_path / "cache").exists()


@pytest.fixture
def maven(only_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven that gives one small jar, which is the one that is wanted, and notes its arguments; its folder."""
    monkeypatch.setenv("PATH", f"{only_path}:{os.defpath}")
    find = 'for a in "$@"; do case $a in -DoutputDirectory=*) d=${a#*=};; esac; done'
    make = f'echo "$@" >{tmp_path}/args; mkdir -p "$d"; printf jar >"$d/kafka_2.13-0.jar"'
    _program(only_path, "mvn", f"{find}\n{make}")
    monkeypatch.setattr(jars, "SUMS", tmp_path / "sums")
    (tmp_path / "sums").write_text(f"{hashlib.sha512(b'jar').hexdigest()}  kafka_2.13-0.jar\n")
    return only_path


def test_jars_are_fetched_once(maven: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = jars.fetch(tmp_path / "cache", said.append)
    assert folder == tmp_path / "cache" / "kafka" / jars.kafka_version() / "jars"
    assert [path.name for path in folder.iterdir()] == ["kafka_2.13-0.jar"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "fetching" in said[0]
    assert "-C" in (tmp_path / "args").read_text().split(), "Maven only warns of a wrong checksum without it"
    _program(maven, "mvn", "exit 1")
    assert jars.fetch(tmp_path / "cache", said.append) == folder


def another_jar(folder: Path) -> None:
    (folder / "kafka_2.13-0.jar").write_bytes(b"jaR")


def one_more_jar(folder: Path) -> None:
    (folder / "more.jar").write_bytes(b"")


def no_jar(folder: Path) -> None:
    (folder / "kafka_2.13-0.jar").unlink()


@pytest.mark.parametrize(
    ("change", "text"),
    [(another_jar, "0.jar: its SHA-512 differs"), (one_more_jar, "more.jar: not a jar of"), (no_jar, "missing")],
)
def test_other_jars_are_refused_at_each_start(
    maven: Path, tmp_path: Path, change: Callable[[Path], None], text: str
) -> None:
    folder = jars.fetch(tmp_path / "cache", lambda said: None)
    change(folder)
    with pytest.raises(SetupMissing, match=text) as caught:
        jars.fetch(tmp_path / "cache", lambda said: None)
    assert f"remove {folder} and run `klais kafka fetch`" in str(caught.value)


def test_what_maven_gives_is_compared_before_it_is_kept(maven: Path, tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"{'0' * 128}  kafka_2.13-0.jar\n")
    with pytest.raises(SetupMissing, match="SHA-512 differs"):
        jars.fetch(tmp_path / "cache", lambda said: None)
    assert not jars.jars_dir(tmp_path / "cache").exists()


def test_jars_that_others_may_write_are_refused(maven: Path, tmp_path: Path) -> None:
    folder = jars.fetch(tmp_path / "cache", lambda said: None)
    for path in (folder / "kafka_2.13-0.jar", folder, folder.parent, tmp_path / "cache"):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(0o777)
        with pytest.raises(NotPrivate, match="others can write"):
            jars.fetch(tmp_path / "cache", lambda said: None)
        path.chmod(before)


def test_the_list_of_jars_is_of_the_version_that_the_pom_names() -> None:
    names = jars.sums()
    assert f"kafka_2.13-{jars.kafka_version()}.jar" in names and f"kafka-clients-{jars.kafka_version()}.jar" in names
    assert all(len(digest) == 128 and int(digest, 16) for digest in names.values()) and len(names) > 40


def test_properties_name_port_data_and_limits(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, kafka_port=19092, kafka_heap_mb=300)
    files = BrokerFiles(settings)
    lines = dict(line.split("=", 1) for line in server_properties(settings, files, 19093).splitlines())
    assert lines["listeners"] == "PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093"
    assert lines["log.dirs"] == str(tmp_path / "kafka" / "data")
    assert lines["auto.create.topics.enable"] == "false"
    assert "-Xmx300m" in jvm_flags(settings, files)
    assert "-XX:TieredStopAtLevel=1" in jvm_flags(settings, files)
    assert "-XX:TieredStopAtLevel=1" not in jvm_flags(settings.model_copy(update={"kafka_jit": "full"}), files)


def test_a_relative_state_folder_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert BrokerFiles(Settings(state_dir=Path("here"))).data == tmp_path / "here" / "kafka" / "data"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_owner_file_counts_as_none(tmp_path: Path, text: str) -> None:
    settings = Settings(state_dir=tmp_path)
    assert running_owner(settings) is None
    BrokerFiles(settings).root.mkdir()
    BrokerFiles(settings).owner.write_text(text)
    assert read_owner(settings) is None
