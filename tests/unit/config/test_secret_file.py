"""Files with secrets: what is read, what is refused and why, and that no message has anything of their content."""

import errno
import os
import threading
from pathlib import Path

import pytest

from klais.config.env_file import read_env_file
from klais.config.load import describe, environ_of, load
from klais.config.secret_file import find_or_make_token, not_private, read_secret
from klais.errors import ConfigError
from klais.system.private_files import not_ours

SECRET = "hunter2-hunter2-hunter2"


def write(path: Path, text: str | bytes = SECRET + "\n", mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def test_a_private_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    assert read_secret(write(tmp_path / "a", SECRET + "\r\n"), "X") == SECRET
    assert read_secret(write(tmp_path / "b", f" {SECRET} ", mode=0o400), "X") == f" {SECRET} "


def test_a_disk_that_cannot_read_it_is_a_problem_of_that_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload must not end the edge."""
    path = write(tmp_path / "token")

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("builtins.open", fails)
    with pytest.raises(ConfigError, match=r"^KLAIS_API_TOKEN_FILE=.*token: cannot be read: Input/output error$"):
        load({"KLAIS_API_TOKEN_FILE": str(path)})


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o666])
def test_what_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=r"^X=.*others can (read|write).*chmod 600") as caught:
        read_secret(write(tmp_path / "a", mode=mode), "X")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "fine"),
    [
        (0, 0, 0o400, True),
        (0, 0, 0o440, True),  # as systemd hands a credential to a service
        (0, 0, 0o444, False),
        (0, 5, 0o440, False),
        (0, 0, 0o420, False),
        (os.geteuid(), 5, 0o600, True),
        (os.geteuid() + 1, 0, 0o600, False),
    ],
)
def test_owners_and_modes(uid: int, gid: int, mode: int, fine: bool) -> None:
    info = os.stat_result((0o100000 | mode, 1, 1, 1, uid, gid, 5, 0, 0, 0))
    assert (not_private(info) == "") == fine
    assert (not_ours(info) == "") == (fine or mode in (0o444, 0o440))


def test_links_folders_pipes_and_nothing_are_refused(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(write(tmp_path / "a"))
    os.mkfifo(pipe, 0o600)
    for path in (link, pipe, tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"^X="):
            read_secret(path, "X")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a" * 70_000])
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^X="):
        read_secret(write(tmp_path / "a", content), "X")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("api_token", {}),
        ("api_read_token", {}),
        (
            "kafka_sasl_password",
            {
                "KLAIS_KAFKA_BOOTSTRAP": "a:1",
                "KLAIS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "KLAIS_KAFKA_SASL_USERNAME": "u",
            },
        ),
    ],
)
def test_every_secret_may_be_in_a_file(tmp_path: Path, name: str, more: dict[str, str]) -> None:
    setting = f"KLAIS_{name.upper()}"
    path = write(tmp_path / "secret")
    settings = load({f"{setting}_FILE": str(path), **more})
    assert getattr(settings, name).get_secret_value() == SECRET
    env = environ_of(settings)
    assert setting not in env and SECRET not in "".join(env.values()), "a child reads the file itself"
    assert load(env) == settings
    row = next(row for row in describe(settings, env) if row.name == setting)
    assert row.value == "***"
    with pytest.raises(ConfigError, match="both set"):
        load({f"{setting}_FILE": str(path), setting: SECRET, **more})


def test_a_key_password_may_be_in_a_file(tmp_path: Path) -> None:
    pem = write(tmp_path / "pem", "")
    env = {"KLAIS_KAFKA_BOOTSTRAP": "a:1", "KLAIS_KAFKA_SECURITY_PROTOCOL": "SSL"}
    env |= {"KLAIS_KAFKA_SSL_CERTFILE": str(pem), "KLAIS_KAFKA_SSL_KEYFILE": str(pem)}
    settings = load(env | {"KLAIS_KAFKA_SSL_KEYFILE_PASSWORD_FILE": str(write(tmp_path / "secret"))})
    assert settings.kafka_ssl_keyfile_password is not None
    assert settings.kafka_ssl_keyfile_password.get_secret_value() == SECRET


def test_all_problems_are_told_together(tmp_path: Path) -> None:
    open_file, none = write(tmp_path / "open", mode=0o644), tmp_path / "no\x1bne"
    with pytest.raises(ConfigError) as caught:
        load({"KLAIS_API_TOKEN_FILE": str(open_file), "KLAIS_API_READ_TOKEN_FILE": str(none), "KLAIS_PARTITIONS": "0"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and all(line.isprintable() for line in lines) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "token", ["x" * 15, "hunter2", "with blanks in it it is", "ü" * 20, "tab\tin the token ......"]
)
def test_weak_and_odd_tokens_are_refused(token: str) -> None:
    for name in ("KLAIS_API_TOKEN", "KLAIS_API_READ_TOKEN"):
        with pytest.raises(ConfigError, match=rf"^{name}=\*\*\*: .*openssl rand -hex 16") as caught:
            load({name: token})
        assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("KLAIS_API_HOSTS", "a b"), ("KLAIS_API_HOSTS", "a:80"), ("KLAIS_API_HOSTS", "*"),
     ("KLAIS_API_PROXIES", "proxy.example"), ("KLAIS_API_PROXIES", "10.0.0.0/33"), ("KLAIS_API_CONNECTIONS", "0")],
)  # fmt: skip
def test_odd_names_and_networks_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}="):
        load({name: value})


def test_the_env_file_is_held_to_the_same(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", "KLAIS_LOG_LEVEL=debug\n", mode=0o644)
    assert read_env_file(plain, ("KLAIS_API_TOKEN",)) == {"KLAIS_LOG_LEVEL": "debug"}
    holds = write(tmp_path / "holds", f"KLAIS_API_TOKEN={SECRET}\n", mode=0o644)
    with pytest.raises(ConfigError, match=r"holds KLAIS_API_TOKEN.*others can read.*KLAIS_API_TOKEN_FILE"):
        load({"KLAIS_ENV_FILE": str(holds)})
    holds.chmod(0o600)
    assert load({"KLAIS_ENV_FILE": str(holds)}).api_token is not None
    for mode in (0o602, 0o620):
        plain.chmod(mode)
        with pytest.raises(ConfigError, match="others can write"):
            load({"KLAIS_ENV_FILE": str(plain)})


def test_processes_that_start_together_agree_on_one_token(tmp_path: Path) -> None:
    path, found = tmp_path / "new" / "api.token", []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        found.append(find_or_make_token(path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found[0]) == 32
    assert [left.name for left in path.parent.iterdir()] == ["api.token"]
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_a_token_file_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path / "api.token", mode=0o644)
    with pytest.raises(ConfigError, match="others can read"):
        find_or_make_token(tmp_path / "api.token")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symbolic link"):
        find_or_make_token(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ConfigError, match="cannot be created"):
        find_or_make_token(Path("/proc/nowhere/api.token"))
