"""klais.toml: each setting has its place in it, and everything wrong in it is named with its line."""

import os
import re
from pathlib import Path

import pytest

from klais.config import toml_file
from klais.config.fields import FIELDS, SECRETS, variable
from klais.config.load import Settings, describe, environ_of, load
from klais.config.tables import BEGINNINGS, ENVIRONMENT_ONLY, MEANINGS, NAMES, table_of
from klais.config.write import commented, settings_as_toml
from klais.errors import ConfigError

TEXT = """
[kafka]
bootstrap = "kafka:9092"  # the cluster
partitions = 8

[dam]
max_rate = 2.5e4
[auth]
mode = "monitor"
[api]
open_reads = true
"""


def write(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "klais.toml"
    path.write_text(text)
    return {"KLAIS_CONFIG": str(path)}


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text) | environ)
    return [line.replace(f"{tmp_path}/", "") for line in str(caught.value).splitlines()]


def test_every_setting_has_one_table_and_a_key_of_its_own() -> None:
    named = [name for name in FIELDS if name not in ENVIRONMENT_ONLY]
    assert set(NAMES.values()) == set(named) and len(NAMES) == len(named)
    assert {table_of(name) for name in named} == set(BEGINNINGS) == set(MEANINGS)
    for name in named:
        beginnings = [words for all_words in BEGINNINGS.values() for words in all_words]
        assert sum(name == words or name.startswith(f"{words}_") for words in beginnings) == 1, name


def test_a_setting_without_a_table_is_named() -> None:
    with pytest.raises(KeyError, match=r"no table of klais\.toml contains the setting 'colour'"):
        table_of("colour")


def test_its_values_are_the_settings(tmp_path: Path) -> None:
    settings = load(write(tmp_path, TEXT))
    assert (settings.kafka_bootstrap, settings.partitions, settings.auth) == ("kafka:9092", 8, "monitor")
    assert (settings.dam_max_rate, settings.api_open_reads) == (25_000, True)
    assert settings.config == str(tmp_path / "klais.toml") and not settings.auto_control
    assert settings.from_file == {"kafka_bootstrap", "partitions", "dam_max_rate", "auth", "api_open_reads"}


def test_flag_above_environment_above_file_above_default(tmp_path: Path) -> None:
    env_file = tmp_path / "edge.env"
    env_file.write_text("KLAIS_REPLICATION=3\n")
    environ = write(tmp_path, "[kafka]\npartitions = 8\nport = 1\nreplication = 2\nheap_mb = 999\nbootstrap = 'a:1'\n")
    environ |= {"KLAIS_KAFKA_PORT": "2", "KLAIS_PARTITIONS": "9", "KLAIS_ENV_FILE": str(env_file)}
    settings = load(environ, kafka_port=3)
    assert (settings.kafka_port, settings.partitions, settings.replication, settings.kafka_heap_mb) == (3, 9, 3, 999)
    assert settings.kafka_jit == "quick"
    found = {row.name: (row.source, row.place.removeprefix(f"{tmp_path}/")) for row in describe(settings, environ)}
    assert found["KLAIS_PARTITIONS"] == ("env", "")
    assert found["KLAIS_REPLICATION"] == ("env_file", "edge.env:1")
    assert found["KLAIS_KAFKA_HEAP_MB"] == ("file", "klais.toml:5")
    assert found["KLAIS_KAFKA_JIT"] == ("default", "")


def test_the_file_of_this_folder_goes_before_the_one_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, machine = tmp_path / "klais.toml", tmp_path / "etc.toml"
    monkeypatch.setattr(toml_file, "SEARCHED", (here, machine))
    assert load().partitions == 4 and load().config is None
    machine.write_text("[kafka]\npartitions = 5\n")
    assert load().partitions == 5 and load().config == str(machine)
    here.write_text("[kafka]\npartitions = 6\n")
    assert load().partitions == 6
    monkeypatch.setenv("KLAIS_CONFIG", str(machine))
    assert load().partitions == 5
    monkeypatch.setenv("KLAIS_CONFIG", "none")
    assert load() == Settings()


def test_everything_wrong_is_named_with_file_line_key_and_range(tmp_path: Path) -> None:
    text = """
[kafka]
partitions = 0
port = true
heap = 3
topic = '''
partitions = 9
'''
flush = ["each"]

[dams]
[xdp]
partitions = 3
devices = "many"
log = 1
[process]
kafka_port = 1
"""
    lines = problems(tmp_path, text, KLAIS_WEB_PORT="x")
    for start, said in {
        "klais.toml:3: [kafka] partitions=0": "is too small (1 to 1024; partitions",
        "klais.toml:4: [kafka] port": "true is not a valid value",
        "klais.toml:5: [kafka] heap": "did you mean heap_mb?",
        "klais.toml:6: [kafka] topic=": "has invalid or too many characters",
        "klais.toml:9: [kafka] flush": "must be text in quotes, a number, true or false",
        "klais.toml:11: [dams]": "did you mean [dam]?",
        "klais.toml:13: [xdp] partitions": "must be [kafka] partitions",
        "klais.toml:14: [xdp] devices=many": "is not a whole number (1024 to 16777216 devices",
        "klais.toml:15: [xdp] log": "is not a setting of klais: ",
        "klais.toml:17: [process] kafka_port": "must be [kafka] port",
        "KLAIS_WEB_PORT=x": "is not a whole number",
    }.items():
        assert [said in line for line in lines if line.startswith(start)] == [True], (start, lines)
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partitions = 3\n", "klais.toml:1: partitions: a setting must be in a table, this one as [kafka] partitions"),
        ("kafka = 3\n", "klais.toml:1: kafka is a table: write [kafka] on its own line"),
        ("[kafka\n", "klais.toml:1: is not TOML"),
        ("[kafka]\nport = 1\nport = 2\n", "klais.toml:3: is not TOML"),
        (
            "[kafka]\nsasl_password = 'hunter2'\n",
            "klais.toml:2: [kafka] sasl_password: secrets are not allowed in this",
        ),
        ("kafka.port = 0\n", "klais.toml:1: [kafka] port=0: is too small"),
        ("kafka = { port = 0 }\n", "klais.toml:1: [kafka] port=0: is too small"),
        ("[process]\nconfig = 'x'\n", "klais.toml:2: [process] config: is not a setting"),
    ],
)
def test_a_wrong_line(tmp_path: Path, text: str, said: str) -> None:
    (line,) = problems(tmp_path, text)
    assert line.startswith(said) and "hunter2" not in line


def test_what_others_could_have_written_is_refused(tmp_path: Path) -> None:
    environ = write(tmp_path, TEXT)
    path = Path(environ["KLAIS_CONFIG"])
    path.chmod(0o664)
    with pytest.raises(ConfigError, match=r"others can write to it \(mode 0664\).* chmod go-w"):
        load(environ)
    path.chmod(0o644)
    assert load(environ).partitions == 8
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        with pytest.raises(ConfigError, match=r"belongs to uid 12345.* chown it to root"):
            load(environ)
    for wrong, said in ((tmp_path, "not a regular file"), (tmp_path / "none.toml", "cannot be read: No such file")):
        with pytest.raises(ConfigError, match=said):
            load({"KLAIS_CONFIG": str(wrong)})


def test_a_secret_comes_from_its_file_and_gives_way_to_the_environment(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("t" * 20 + "\n")
    secret.chmod(0o600)
    environ = write(tmp_path, f'[api]\ntoken_file = "{secret}"\n')
    assert load(environ).api_token.get_secret_value() == "t" * 20  # type: ignore[union-attr]
    settings = load(environ | {"KLAIS_API_TOKEN": "e" * 20})
    assert settings.api_token_file is None
    assert settings.api_token.get_secret_value() == "e" * 20  # type: ignore[union-attr]
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match=r"klais\.toml:2: \[api\] token_file=.*others can read it"):
        load(environ)


def test_a_child_gets_the_values_and_only_a_member_of_a_fleet_reads_the_file_again(tmp_path: Path) -> None:
    environ = write(tmp_path, TEXT) | {"KLAIS_PARTITIONS": "9"}
    settings = load(environ)
    child = environ_of(settings)
    assert child["KLAIS_CONFIG"] == "none" and child["KLAIS_KAFKA_BOOTSTRAP"] == "kafka:9092"
    assert load(child).model_dump(exclude={"config"}) == settings.model_dump(exclude={"config"})
    member = environ_of(settings, reads_file=True)
    assert member == {"KLAIS_CONFIG": environ["KLAIS_CONFIG"], "KLAIS_PARTITIONS": "9"}
    Path(environ["KLAIS_CONFIG"]).write_text('[kafka]\npartitions = 3\n[process]\nlog_level = "debug"\n')
    assert (load(member).log_level, load(member).partitions) == ("debug", 9)


def test_the_file_that_init_writes_holds_every_setting_at_its_default(tmp_path: Path) -> None:
    text = commented(describe(Settings(), {}))
    assert load(write(tmp_path, text)).model_dump(exclude={"config"}) == Settings().model_dump(exclude={"config"})
    keys = [line[2:] for line in text.splitlines() if re.match("# [a-z_]+ = ", line)]
    assert len(keys) == len(NAMES) - len(SECRETS)
    whole = "\n".join(line[2:] if line[2:] in keys else line for line in text.splitlines())
    settings = load(write(tmp_path, whole))
    assert settings.model_dump(exclude={"config"}) == Settings().model_dump(exclude={"config"})
    empty = {name for name, field in FIELDS.items() if field.default in (None, "")}
    assert settings.from_file == set(NAMES.values()) - empty


def test_a_difference_can_be_loaded_again(tmp_path: Path) -> None:
    environ = {variable("topic_prefix"): "a-", variable("partitions"): "8"}
    environ |= {variable("state_dir"): '/tmp/with "quotes" \\ and \t', variable("api_token"): "t" * 20}
    settings = load(environ)
    rows = [row for row in describe(settings, environ) if row.value != row.default]
    text = settings_as_toml(rows)
    assert "t" * 20 not in text and "# token is set" in text
    again = load(write(tmp_path, text))
    left = {"config", "api_token"}
    assert again.model_dump(exclude=left) == settings.model_dump(exclude=left)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://a:1", "http://a:1"),
        ("https://klais.example/", "https://klais.example"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("a:1", None),
        ("ftp://a", None),
        ("http://", None),
        ("http://me:word@a", None),
        ("http://a/x", None),
        ("http://a b", None),
    ],
)
def test_urls(url: str, kept: str | None) -> None:
    if kept is not None:
        assert load({"KLAIS_WEB_URL": url}).web_url == kept
        return
    with pytest.raises(ConfigError, match=r"must be an address like http://host:port|is not a host"):
        load({"KLAIS_WEB_URL": url})


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://grafana.example/d/klais?orgId=1#top", True),
        ("http://[::1]:3000/", True),
        ("http://grafana:3000", True),
        ("javascript:alert(1)//http://a", False),
        ("data:text/html,x", False),
        ("//a/b", False),
        ("https:///x", False),
        ("https://me:word@a/", False),
        ("https://a/ b", False),
        ("https://a/<b>", False),
        ("https://ä/", False),
    ],
)
def test_links(url: str, good: bool) -> None:
    if good:
        assert load({"KLAIS_WEB_GRAFANA_URL": url}).web_grafana_url == url
        return
    with pytest.raises(ConfigError, match=r"KLAIS_WEB_GRAFANA_URL.*(must be an address like http|is not a host)"):
        load({"KLAIS_WEB_GRAFANA_URL": url})


def test_a_setting_says_where_its_value_comes_from(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[kafka]\nbootstrap = "k:1"\n') | {"KLAIS_WEB_PORT": "6067"})
    assert settings.origin("kafka_bootstrap").endswith("klais.toml:2: [kafka] bootstrap")
    assert settings.origin("web_bind", "web_port") == "KLAIS_WEB_PORT"
    assert settings.origin("api_bind") == "the default of KLAIS_API_BIND"


def test_a_byte_order_mark_and_the_line_ends_of_windows_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "klais.toml"
    path.write_bytes(b"\xef\xbb\xbf[kafka]\r\nport = 9093\r\n")
    path.chmod(0o600)
    assert load({"KLAIS_CONFIG": str(path)}).kafka_port == 9093
    file = tmp_path / "edge.env"
    file.write_bytes(b"\xef\xbb\xbfKLAIS_KAFKA_PORT=9094\r\n")
    file.chmod(0o600)
    assert load({"KLAIS_ENV_FILE": str(file)}).kafka_port == 9094


def test_a_file_in_a_folder_that_this_user_may_not_search_is_an_error_not_an_absent_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /etc/klais of the Debian package, for users outside the group klais."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "klais.toml").write_text("")
    monkeypatch.chdir(closed)
    monkeypatch.setattr(toml_file, "SEARCHED", (Path("klais.toml"),))
    user = os.geteuid()
    closed.chmod(0)
    if user == 0:
        os.seteuid(65_534)
    try:
        assert toml_file.find() == Path("klais.toml")
        with pytest.raises(ConfigError, match=r"klais\.toml: cannot be read: Permission denied\. Use `--config FILE`"):
            toml_file.read_toml(Path("klais.toml"))
    finally:
        os.seteuid(user)
        closed.chmod(0o700)
    assert toml_file.find() == Path("klais.toml")
    (closed / "klais.toml").unlink()
    assert toml_file.find() is None
