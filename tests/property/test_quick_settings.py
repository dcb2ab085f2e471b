"""Settings read without pydantic are those that are read with it, and so are the errors."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klais.config.fields import FIELDS, choices_of, is_secret, variable
from klais.config.load import load
from klais.config.quick import PlainSettings, load_quick
from klais.config.settings import SettingsFields
from klais.errors import ConfigError

NAMES = [name for name in FIELDS if name not in ("env_file", "config", "profile") and not name.endswith("file")]
ODD = ["", " ", "0", "-1", "08", "+5", "1_000", "1e3", "2.5", "nan", "inf", "true", "TRUE", "yes", "1", "x" * 20, "\n"]
ODD += [
    "0.0.0.0:5000",
    "::1",
    "[::1]:80",
    "kafka1:9092, kafka2:9092",
    "http://a:1/",
    "~/x",
    "~nobody-there/x",
    "a,b",
    "٣",
]


def plain(name: str) -> list[str]:
    """Values that the setting can have."""
    field = FIELDS[name]
    if choices := choices_of(field.annotation):
        return [*choices, choices[0].upper()]
    return [str(number) for number in (field.low, field.high, field.default) if number is not None]


VALUES = {name: st.sampled_from(plain(name) + ODD) for name in NAMES}
ENVIRONMENTS = st.lists(st.sampled_from(NAMES).flatmap(lambda n: st.tuples(st.just(n), VALUES[n])), max_size=5)


def read(reader: Any, environ: dict[str, str]) -> dict[str, Any] | str:
    try:
        found: SettingsFields = reader(environ)
    except ConfigError as error:
        return str(error)
    values = {name: getattr(found, name) for name in FIELDS}
    return values | {"set": set(found.model_fields_set), "of": {name: found.origin(name) for name in FIELDS}}


@given(ENVIRONMENTS)
def test_both_readers_agree(chosen: list[tuple[str, str]]) -> None:
    environ = {variable(name): value for name, value in chosen}
    assert read(load_quick, environ) == read(load, environ)


def test_what_a_file_and_the_environment_usually_hold_needs_no_pydantic(tmp_path: Path) -> None:
    path = tmp_path / "klais.toml"
    path.write_text('[kafka]\nbootstrap = "a:1"\npartitions = 8\n[dam]\nmax_rate = 5000\njson_strict = true\n')
    path.chmod(0o600)
    environ = {variable(name): str(field.default) for name, field in FIELDS.items() if field.default is not None}
    environ |= {"KLAIS_CONFIG": str(path), "KLAIS_JSON_STRICT": "false", "KLAIS_BATCH_SOURCES": "true"}
    environ = {name: value for name, value in environ.items() if value not in ("False", "True")}
    found = load_quick(environ)
    assert isinstance(found, PlainSettings) and found.kafka_bootstrap == "a:1"
    assert read(load_quick, environ) == read(load, environ)


@pytest.mark.parametrize("name", [name for name in FIELDS if is_secret(name)])
def test_secrets_are_not_shown(name: str) -> None:
    value = getattr(load_quick({variable(name): "hunter2-hunter2-hunter2"}, **_fitting(name)), name)
    assert value.get_secret_value() == "hunter2-hunter2-hunter2" and "hunter2" not in f"{value} {value!r}"


def _fitting(name: str) -> dict[str, Any]:
    if name == "kafka_sasl_password":
        protocol = {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "u"}
    elif name == "kafka_ssl_keyfile_password":
        file = str(Path(__file__))
        protocol = {"kafka_security_protocol": "SSL", "kafka_ssl_certfile": file, "kafka_ssl_keyfile": file}
    else:
        return {}
    return protocol | {"kafka_bootstrap": "a:1"}
