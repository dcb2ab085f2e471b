"""The configuration: everything wrong at once, nothing secret shown, nothing misspelt accepted."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from klais.config.checks import check_servers
from klais.config.cross_checks import warnings
from klais.config.load import Settings, describe, environ_of, load
from klais.errors import ConfigError
from klais.system.address import split_address

SECRET = "hunter2-hunter2-hunter2"


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    return str(caught.value).splitlines()


def test_every_problem_is_in_one_message() -> None:
    lines = problems(
        {
            "KLAIS_KAFKA_PORT": "abc",
            "KLAIS_PARTITIONS": "0",
            "KLAIS_UDP_BIND": "::1:5000",
            "KLAIS_LOG_FORMAT": "xml",
            "KLAIS_BATCH_SOURCES": "maybe",
            "KLAIS_UPD_RCVBUF_BYTES": "1",
            "KLAIS_REPLICATION": "3",
            "KLAIS_KAFKA_SASL_PASSWORD": SECRET,
        }
    )
    for name, said in {
        "KLAIS_KAFKA_PORT=abc": "1 to 65535",
        "KLAIS_PARTITIONS=0": "1 to 1024",
        "KLAIS_UDP_BIND=::1:5000": "brackets",
        "KLAIS_LOG_FORMAT=xml": "text | json",
        "KLAIS_BATCH_SOURCES=maybe": "true | false",
        "KLAIS_UPD_RCVBUF_BYTES": "did you mean KLAIS_UDP_RCVBUF_BYTES?",
        "KLAIS_REPLICATION=3": "one node",
        "KLAIS_KAFKA_SASL_PASSWORD is set": "does not use it",
    }.items():
        assert [said in line for line in lines if line.startswith(name)] == [True], name
    assert len(lines) == 8


def test_units_stand_beside_ranges() -> None:
    (line,) = problems({"KLAIS_DAM_MAX_RATE": "0"})
    assert line.startswith("KLAIS_DAM_MAX_RATE=0: is too small (1 to 100000000 frames/s; ")


@pytest.mark.parametrize("name", ["KLAIS_KAFKA_SASL_PASSWORD", "KLAIS_API_TOKEN", "KLAIS_KAFKA_SSL_KEYFILE_PASSWORD"])
def test_secrets_are_in_no_message_and_no_repr(name: str) -> None:
    environ = {name: SECRET, "KLAIS_PARTITIONS": "x", "KLAIS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
    assert SECRET not in "\n".join(problems(environ))
    with pytest.raises(ValidationError) as caught:
        Settings(kafka_sasl_password=SECRET, kafka_sasl_mechanism="PLAIN")
    assert SECRET not in str(caught.value)
    settings = Settings(api_token=SECRET)
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    rows = {row.name: row for row in describe(settings, {"KLAIS_API_TOKEN": SECRET})}
    assert (rows["KLAIS_API_TOKEN"].value, rows["KLAIS_API_TOKEN"].source) == ("***", "env")


def test_a_misspelt_name_never_shows_its_value() -> None:
    (line,) = problems({"KLAIS_KAFKA_SASL_PASWORD": SECRET})
    assert line == "KLAIS_KAFKA_SASL_PASWORD: is not a setting of klais: did you mean KLAIS_KAFKA_SASL_PASSWORD?"


def test_a_value_cannot_start_a_line_of_its_own() -> None:
    (line,) = problems({"KLAIS_TOPIC_PREFIX": "a\nKLAIS_PARTITIONS=9 \x1b[31m"})
    assert "\\n" in line and "\x1b" not in line


def test_names_of_tests_and_other_programs_are_left_alone() -> None:
    environ = {"KLAIS_REQUIRE": "broker", "KLAIS_FAULT_ROUNDS": "2", "KLAIS_TEST_ANYTHING": "1", "PATH": "/bin"}
    assert load(environ) == Settings()


def test_empty_means_not_set() -> None:
    assert load({"KLAIS_API_TOKEN": "", "KLAIS_KAFKA_BOOTSTRAP": "", "KLAIS_PARTITIONS": ""}) == Settings()


def test_direct_construction_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAIS_PARTITIONS", "7")
    monkeypatch.setenv("KLAIS_NONSENSE", "7")
    assert Settings().partitions == 4
    with pytest.raises(ValidationError):
        Settings(partitons=7)  # type: ignore[call-arg]
    monkeypatch.delenv("KLAIS_NONSENSE")
    assert load().partitions == 7


def test_overrides_win_and_are_checked_with_the_rest() -> None:
    assert load({"KLAIS_PARTITIONS": "7"}, partitions=9, kafka_port=None).partitions == 9
    with pytest.raises(ConfigError, match=r"KLAIS_WEB_PORT=70000: is too large \(1 to 65535 port"):
        load({}, web_port=70_000)


def test_fields_that_need_each_other(tmp_path: Path) -> None:
    cluster = {"KLAIS_KAFKA_BOOTSTRAP": "a:1"}
    (first, second) = problems(cluster | {"KLAIS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"})
    assert "KLAIS_KAFKA_SASL_USERNAME" in first and "KLAIS_KAFKA_SASL_PASSWORD" in second
    pem = tmp_path / "cert.pem"
    pem.write_text("")
    cert = {"KLAIS_KAFKA_SECURITY_PROTOCOL": "SSL", "KLAIS_KAFKA_SSL_CERTFILE": str(pem)}
    (line,) = problems(cluster | cert)
    assert "KLAIS_KAFKA_SSL_KEYFILE is not" in line
    (line,) = problems({"KLAIS_KAFKA_SECURITY_PROTOCOL": "SSL"})
    assert "needs KLAIS_KAFKA_BOOTSTRAP" in line
    for name in ("klais_raw", "klais_audit", "klais.raw", "klais-devices-changelog"):
        (line,) = problems({"KLAIS_KAFKA_TOPIC": name})
        assert "another topic" in line
    wrong = {"KLAIS_KAFKA_SECURITY_PROTOCOL": "SSL", "KLAIS_KAFKA_SSL_CAFILE": str(tmp_path / "no.pem")}
    (line,) = problems(cluster | wrong)
    assert line.endswith("is not a readable file")


def test_what_depends_on_a_bad_field_is_not_said() -> None:
    lines = problems({"KLAIS_KAFKA_BOOTSTRAP": "nonsense", "KLAIS_REPLICATION": "3"})
    assert len(lines) == 1 and lines[0].startswith("KLAIS_KAFKA_BOOTSTRAP=nonsense")


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:5000", ("0.0.0.0", 5000)), ("[::]:0", ("::", 0)), ("a-b.example:65535", ("a-b.example", 65_535))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":1", "a", "a:", "a:x", "a:-1", "a:65536", "::1:5", "[1.2.3.4]:5", "[x]:5", "a b:1", "-a:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        split_address(text)


def test_servers_are_normalised() -> None:
    assert check_servers(" a:1 , [::1]:2,") == "a:1,[::1]:2"
    for wrong in ("", ",", "a:0", "kafka://a:1", "a"):
        with pytest.raises(ValueError):
            check_servers(wrong)


def test_the_environment_of_a_child_gives_the_same_settings() -> None:
    settings = Settings(
        partitions=8,
        kafka_bootstrap="a:1",
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_username="u",
        kafka_sasl_password=SECRET,
        batch_sources=True,
        dam_device_rate=0.25,
        state_dir=Path("/x"),
    )
    environ = environ_of(settings)
    assert load(environ) == settings
    assert environ.pop("KLAIS_CONFIG") == "none" and len(environ) == 8


def test_every_field_is_described_with_a_range_where_it_is_a_number() -> None:
    for row, (name, field) in zip(describe(Settings(), {}), Settings.model_fields.items(), strict=True):
        assert row.name == "KLAIS_" + name.upper()
        assert row.description, name
        assert row.source == "default" and row.value == row.default
        if field.annotation in (int, float):
            assert re.match(r"[\d.]+ to [\d.]+", row.range), name


def test_queues_are_a_list_of_numbers_in_order() -> None:
    assert Settings(xdp_queues=" 0-3, 8").xdp_queues == "0-3,8"
    for wrong in ("", "3-1", "1,", "a", "1--2", "-1", "1234", "0-\n1", "٣"):
        (problem,) = problems({"KLAIS_XDP_QUEUES": wrong}) if wrong else ["KLAIS_XDP_QUEUES"]
        assert "KLAIS_XDP_QUEUES" in problem


@pytest.mark.parametrize(("target_ms", "linger_ms"), [(5, 2.5), (10, 5), (60, 30), (100, 70), (1000, 970)])
def test_the_linger_follows_the_latency_target_unless_it_is_set(target_ms: float, linger_ms: float) -> None:
    assert Settings(latency_ms=target_ms).linger_ms == linger_ms
    own = Settings(latency_ms=target_ms, batch_linger_ms=0.0)
    assert own.linger_ms == 0.0
    assert ["KLAIS_BATCH_LINGER_MS=0 sets the linger" in text for text in warnings(own)] == [True]
    assert warnings(Settings(batch_linger_ms=7.0)) == []


def test_warnings_name_what_is_seldom_meant() -> None:
    assert warnings(Settings()) == []
    odd = Settings(dam_burst_size=10, api_bind="0.0.0.0:6066", web_bind="10.0.0.1")
    said = "\n".join(warnings(odd))
    parts = ["KLAIS_DAM_DEVICE_BURST=5000 is above", "both use port 6066"]
    parts += ["a token is created in the state folder", "KLAIS_WEB_BIND is not loopback", "get 401"]
    assert [part for part in parts if part not in said] == []
    assert "anyone who reaches it may read" in "\n".join(warnings(Settings(web_bind="::", api_open_reads=True)))
    login = {"kafka_bootstrap": "a:1", "kafka_sasl_username": "u", "kafka_sasl_password": SECRET}
    plain = Settings(kafka_security_protocol="SASL_PLAINTEXT", **login)
    assert ["unencrypted" in text for text in warnings(plain)] == [True]
    for good in ({"kafka_sasl_mechanism": "SCRAM-SHA-512"}, {"kafka_security_protocol": "SASL_SSL"}):
        assert warnings(Settings(**{"kafka_security_protocol": "SASL_PLAINTEXT", **login, **good})) == []


@pytest.mark.parametrize("name", ["spool_dir", "models_dir", "topic_prefix", "llm", "udp_bind", "config", "env_file"])
def test_what_no_report_could_show_is_refused(name: str) -> None:
    """Bytes of the environment that are no UTF-8: with such a folder `/health` and `klais_stats` would fail later."""
    with pytest.raises(ConfigError, match=rf"^KLAIS_{name.upper()}: is not UTF-8 text$"):
        load({f"KLAIS_{name.upper()}": "/tmp/\udcff"})
    if name not in ("config", "env_file"):
        with pytest.raises(ConfigError, match=rf"^KLAIS_{name.upper()}: is not UTF-8 text$"):
            load({}, **{name: "/tmp/\udcff"})
