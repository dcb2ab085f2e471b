"""Profiles: what says where a system is comes from the profile, all of it and nothing else."""

from pathlib import Path

import pytest

from klais.cli.servers import Server, edge_of, worker_of
from klais.config.fields import FIELDS
from klais.config.load import describe, environ_of, load
from klais.config.profiles import DISPLACED, KEYS, names
from klais.errors import ConfigError
from klais.http.tokens import token_to_change

PROD = """
[test]
bootstrap = "b:1"
worker_url = "http://b:6066"

[prod]
bootstrap = "a:1"
worker_url = "http://a:6066/"
edge_url = "http://a:8080"
"""
ELSEWHERE = {
    "KLAIS_PROFILE": "prod",
    "KLAIS_KAFKA_BOOTSTRAP": "z:9",
    "KLAIS_API_TOKEN": "token-of-elsewhere",
    "KLAIS_TOPIC_PREFIX": "z-",
    "KLAIS_LOG_LEVEL": "debug",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "klais" / "profiles.toml"
    path.parent.mkdir()
    path.write_text(PROD)
    return path


def test_its_keys_are_settings_and_none_holds_a_secret() -> None:
    assert set(KEYS.values()) <= set(FIELDS) and {"api_token", "kafka_sasl_password"} <= DISPLACED
    assert set(FIELDS) >= DISPLACED


def test_what_it_leaves_out_is_unset_and_the_rest_of_the_settings_stays(file: Path) -> None:
    settings = load(ELSEWHERE)
    assert (settings.kafka_bootstrap, settings.topic_prefix, settings.log_level) == ("a:1", "", "debug")
    assert settings.api_token is None and token_to_change(settings, None) is None
    worker, edge = worker_of(settings, None), edge_of(settings, None)
    assert (worker.url, worker.own, edge.url, edge.own) == ("http://a:6066", None, "http://a:8080", None)
    assert worker.origin.startswith(str(file)) and worker.origin.endswith("worker_url")
    assert worker_of(settings, "http://c:1/") == Server("http://c:1", None, "--url")
    rows = {row.name: (row.source, row.place) for row in describe(settings, ELSEWHERE)}
    assert rows["KLAIS_KAFKA_BOOTSTRAP"] == ("profile", f"{file}:7") and rows["KLAIS_TOPIC_PREFIX"] == ("default", "")
    assert load(ELSEWHERE, kafka_bootstrap="c:3").kafka_bootstrap == "c:3"
    assert names() == ["test", "prod"]


def test_a_child_of_a_profile_reads_no_file(file: Path, tmp_path: Path) -> None:
    """It would find there what the profile left out."""
    own = tmp_path / "klais.toml"
    own.write_text('[kafka]\ntopic_prefix = "z-"\npartitions = 8\n[process]\nlog_level = "debug"\n')
    settings = load({"KLAIS_PROFILE": "prod", "KLAIS_CONFIG": str(own)})
    child = environ_of(settings, reads_file=True)
    assert (child["KLAIS_CONFIG"], child["KLAIS_PROFILE"], child["KLAIS_LOG_LEVEL"]) == ("none", "", "debug")
    assert load(child).topic_prefix == settings.topic_prefix == "" and load(child).kafka_bootstrap == "a:1"


def test_without_an_edge_no_other_edge_is_asked(file: Path) -> None:
    with pytest.raises(ConfigError, match="the profile 'test' has no edge_url"):
        edge_of(load({"KLAIS_PROFILE": "test"}), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"profiles\.toml: has no \[prod\]; it has none"),
        ("[prod]\nbootstrap = 'a:1'\n", "the profile 'prod' lacks worker_url"),
        (
            PROD + "tokn_file = 'x'\n",
            r"profiles\.toml:10: \[prod\] tokn_file: is no key of it: did you mean token_file",
        ),
        (PROD + "partitions = 0\n", r"profiles\.toml:10: \[prod\] partitions=0: is too small \(1 to 1024"),
        (PROD + "api_token = 'hunter2'\n", r"profiles\.toml:10: \[prod\] api_token: is no key"),
    ],
)
def test_a_profile_that_cannot_be_used(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load(ELSEWHERE)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_others_may_write_to_or_that_is_not_there(file: Path) -> None:
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="others can write to it"):
        load(ELSEWHERE)
    file.unlink()
    with pytest.raises(ConfigError, match=r"does not exist. Write \[prod\] and bootstrap and worker_url into it"):
        load(ELSEWHERE)
    assert names() == []
