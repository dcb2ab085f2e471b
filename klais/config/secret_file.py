"""Reads files with secrets, only if no other user could have read or written them."""

import contextlib
import os
import stat
from pathlib import Path

from klais.errors import ConfigError, NotPrivate
from klais.system.private_files import named_folder, not_ours

MAX_BYTES = 65_536


def read_secret(path: Path, setting: str, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, without trailing newlines.

    Parameters
    ----------
    path : Path
        The file, not a symbolic link.
    setting : str
        Name of the setting, for messages.
    max_bytes : int
        Larger files are refused.

    Raises
    ------
    ConfigError
        If the file cannot be read, is empty or not text, or other users could read or change it. No message quotes its
        content.
    """
    named = f"{setting}={path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{named}: cannot be read: {error.strerror} (symbolic links are not followed)") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(f"{named}: is not a regular file")
        if problem := not_private(info):
            raise ConfigError(f"{named}: {problem}: chmod 600 it, owned by the user that runs klais or by root")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{named}: cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{named}: is not UTF-8 text") from None
    if not text or len(data) > max_bytes:
        raise ConfigError(f"{named}: {'is empty' if not text else f'is larger than {max_bytes} bytes'}")
    return text


def not_private(info: os.stat_result) -> str:
    """Why a file with this mode must not hold a secret; empty if it may.

    The root group may read files that root owns: systemd provides credentials to services that way.
    """
    if problem := not_ours(info):
        return problem
    mode = stat.S_IMODE(info.st_mode)
    open_to = mode & 0o044
    if info.st_uid == 0 and info.st_gid == 0:
        open_to &= ~0o040
    return f"others can read it (mode {mode:04o})" if open_to else ""


def find_or_make_token(path: Path) -> str:
    """The token in a private file of this user, created if the file does not exist.

    Two processes that start at the same time use one token: the first to link its file wins.

    Raises
    ------
    ConfigError
        If the file cannot be created, or other users could read it.
    """
    import secrets

    try:
        named_folder(path.parent, "KLAIS_STATE_DIR")
        if not os.path.lexists(path):
            own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "w") as file:
                    file.write(secrets.token_hex(16) + "\n")
                    file.flush()
                    os.fsync(fd)
                _link_once(own, path)
            finally:
                own.unlink(missing_ok=True)
    except NotPrivate as error:
        raise ConfigError(f"{path}: cannot be created: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be created: {error.strerror}. Set KLAIS_STATE_DIR, or set a token yourself"
        ) from None
    return read_secret(path, "token file")


def _link_once(own: Path, path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(own, path)
