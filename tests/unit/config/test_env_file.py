"""The file of settings: what it may hold, that it wins, and what a reload takes over."""

from pathlib import Path

import pytest

from klais.config.env_file import read_env_file
from klais.config.load import Settings, describe, environ_of, load
from klais.edge.signals import changed
from klais.errors import ConfigError

TEXT = """
# the broker
KLAIS_KAFKA_BOOTSTRAP = "kafka:9092"
; a comment too
KLAIS_PARTITIONS=8
KLAIS_TOPIC_PREFIX='a-'
OTHER=1
"""


def test_its_values_win_over_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "edge.env"
    path.write_text(TEXT)
    env = {"KLAIS_ENV_FILE": str(path), "KLAIS_PARTITIONS": "2", "KLAIS_EDGE_ID": "7"}
    settings = load(env)
    assert (settings.kafka_bootstrap, settings.partitions) == ("kafka:9092", 8)
    assert (settings.topic_prefix, settings.edge_id) == ("a-", 7)
    assert load(env, partitions=3).partitions == 3
    rows = {row.name: (row.source, row.place) for row in describe(settings, env)}
    assert rows["KLAIS_EDGE_ID"] == ("env", "") and rows["KLAIS_PARTITIONS"] == ("env_file", f"{path}:5")
    assert "KLAIS_ENV_FILE" not in environ_of(settings)


def test_every_wrong_line_is_named_and_so_is_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "edge.env"
    path.write_text("KLAIS_PARTITIONS\nKLAIS_EDGE_ID=1\nexport X=1\n")
    with pytest.raises(ConfigError) as found:
        load({"KLAIS_ENV_FILE": str(path)})
    assert [line.split(":")[1] for line in str(found.value).splitlines()] == ["1", "3"]
    with pytest.raises(ConfigError, match=r"KLAIS_ENV_FILE=.*cannot be read"):
        load({"KLAIS_ENV_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KLAIS_TOPIC_PREFIX=", None),
        ('KLAIS_TOPIC_PREFIX="a#b"', "a#b"),
        ("KLAIS_TOPIC_PREFIX='a # b'", "a # b"),
        ("KLAIS_TOPIC_PREFIX=a#b", "a#b"),
        (r"KLAIS_TOPIC_PREFIX=a\nb", r"a\nb"),
        ("  KLAIS_TOPIC_PREFIX = $HOME ", "$HOME"),
    ],
)
def test_values_are_read_as_systemd_reads_them(tmp_path: Path, line: str, value: str | None) -> None:
    path = tmp_path / "edge.env"
    path.write_text(f"{line}\n")
    assert read_env_file(path) == {"KLAIS_TOPIC_PREFIX": value or ""}


@pytest.mark.parametrize("line", ["A=b # comment", 'A="b', "A", "1A=b", "=b", "export A=b", "A B=c"])
def test_a_line_that_systemd_reads_differently_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "edge.env"
    path.write_text(f"# first\n{line}\n")
    with pytest.raises(ConfigError, match=r"edge\.env:2: "):
        read_env_file(path)


def test_a_wrong_value_in_it_is_reported_like_one_in_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "edge.env"
    path.write_text("KLAIS_PARTITIONS=none\nKLAIS_PARTITION=3\n")
    with pytest.raises(
        ConfigError, match=r"(?s)KLAIS_PARTITION: is not a.*KLAIS_PARTITIONS=none: is not a whole number"
    ):
        load({"KLAIS_ENV_FILE": str(path)})


def test_what_a_reload_takes_over_and_what_needs_a_restart() -> None:
    before = Settings()
    after = Settings(log_level="debug", spool_max_bytes=1 << 20, edge_id=3, api_bind="127.0.0.1:1")
    assert changed(before, before) == ({}, [])
    assert changed(before, after) == (
        {"log_level": "debug", "spool_max_bytes": 1 << 20},
        ["KLAIS_API_BIND", "KLAIS_EDGE_ID"],
    )
