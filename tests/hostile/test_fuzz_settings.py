"""Odd or damaged files of settings, profiles, variables and keys: settings, or one error that names the file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klais.config.auth_keys import read_masters, read_own_keys
from klais.config.load import Settings, load
from klais.config.profiles import KEYS
from klais.config.toml_file import read_keys
from klais.errors import ConfigError
from tests.hostile.cases import mutated, read_or_refused

TOML = b"""[kafka]
bootstrap = "kafka:9092"
partitions = 8
[dam]
max_rate = 2.5e4
[auth]
exempt = "old-,sim-"
[api]
open_reads = true
proxies = "10.0.0.5,10.1.0.0/16"
hosts = "gateway.example,.example"
[edge]
udp_bind = "0.0.0.0:5000"
"""
PROFILE = b'[a]\nbootstrap = "kafka:9092"\nworker_url = "http://w:6066"\ntoken_file = "/x"\npartitions = 4\n'
VARIABLES = b"KLAIS_PARTITIONS=8\n# said\nKLAIS_DAM_MAX_RATE='5000'\nKLAIS_AUTH_EXEMPT=\"old-\"\n"
OWN = b'{"dev-1":"000102030405060708090a0b0c0d0e0f","dev-2":null}'
MASTERS = b"# keys\n0 " + b"00" * 32 + b"\n1 " + b"11" * 16 + b"\n"
PIECES = [b"[", b"]", b'"""', b"'''", b"[[a]]\n", b"{a=", b"a.b.c", b"= [[", b"1979-05-27", b"0x" + b"f" * 40, b"inf"]
PIECES += [b"nan", b"9" * 30, b"\\u0000", b'"\\ud800"', b"\x00", b"\x1b[31m", b"true", b'"a"."b"', b"${A}", b"export "]


def file_of(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


Reader = Callable[[Path], object]
READERS: dict[str, tuple[bytes, Reader]] = {
    "klais.toml": (TOML, lambda path: load({"KLAIS_CONFIG": str(path)})),
    "profiles.toml": (PROFILE, lambda path: read_keys(path, "a", KEYS, "profile")),
    "variables": (VARIABLES, lambda path: load({"KLAIS_ENV_FILE": str(path)})),
    "keys of devices": (OWN, read_own_keys),
    "keys of generations": (MASTERS, read_masters),
}


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_of_settings_is_read_or_refused(tmp_path: Path, name: str) -> None:
    whole, read = READERS[name]
    others = [whole, *PIECES]

    def made(random: Any, turn: int) -> bytes:
        return whole if turn == 0 else mutated(random, whole, others, 3)

    read_or_refused(name, 1000, made, lambda data: read(file_of(tmp_path / "f", data)))


DEEP = 50_000
ODD_TOML = {
    "arrays": b"a = " + b"[" * DEEP,
    "tables in each other": b"a = " + b"{a=" * DEEP,
    "digits": b"[dam]\nmax_rate = " + b"9" * 5_000,
    "digits of a hexadecimal number": b"[dam]\nmax_rate = 0x" + b"f" * DEEP,
    "parts of a key": b"a." * DEEP + b"a=1",
    "parts of a quoted key": b'"a".' * DEEP + b"a=1",
    "parts of a name of a table": b"[" + b"a . " * DEEP + b"a]",
    "parts of a key in a value": b"a = {" + b"a." * DEEP + b"a=1}",
    "bytes": b"#" * (1 << 20),
}


@pytest.mark.parametrize("name", ODD_TOML)
def test_very_many_of_one_thing_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """A traceback each, or minutes of work for a key of many parts."""
    path = file_of(tmp_path / "klais.toml", ODD_TOML[name])
    with pytest.raises(ConfigError) as caught:
        load({"KLAIS_CONFIG": str(path)})
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_many_addresses_in_a_text_are_no_key_of_many_parts(tmp_path: Path) -> None:
    addresses = ",".join(f"10.0.0.{n}" for n in range(100))
    text = f'# {"." * 99}\n[api]\nproxies = "{addresses}"  # a.b\n'
    assert load({"KLAIS_CONFIG": str(file_of(tmp_path / "f", text.encode()))}).api_proxies == addresses


@pytest.mark.parametrize("setting", ["KLAIS_ENV_FILE", "KLAIS_CONFIG"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, setting: str) -> None:
    """A pipe into which nobody writes held the start up, and a device gave bytes without end."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match=r"regular file|directory|can be written"):
            load({setting: str(path)})


def test_a_device_has_one_key(tmp_path: Path) -> None:
    """The last line won, so that one behind it could allow again what another revoked."""
    with pytest.raises(ConfigError, match="duplicate device_id 'dev-1'"):
        read_own_keys(file_of(tmp_path / "k", b'{"dev-1":null,"dev-1":"000102030405060708090a0b0c0d0e0f"}'))


ODD_WORDS = [
    *("", ",", ",,,", "a" * 100_000, "a," * 30_000, "=", "/", "::", "::/0", "0.0.0.0/0", "1.2.3.4/33", "1.2.3.4/"),
    *("[::1", "1.2.3.4:99999", "[::]:0", "\x1b[31m", "é" * 20, "x" * 17, "\udcff", "-1", "9" * 5_000, "1e999"),
    *("nan", "²", "\0", "~nobody-of-this-name/x", "/dev/null/x"),
]


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_odd_words_are_a_setting_or_a_short_problem(name: str) -> None:
    for word in ODD_WORDS:
        try:
            load({f"KLAIS_{name.upper()}": word})
        except ConfigError as error:
            assert 0 < len(str(error)) < 5_000
