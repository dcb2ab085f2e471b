"""Files that hold secrets, read only when no other user could have read or written them."""

import contextlib
import os
import stat
from pathlib import Path

from klais.errors import ConfigError, NotPrivate
from klais.system.private_files import named_folder, not_ours

MOST_BYTES = 65_536


def read_secret(path: Path, setting: str, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file, without the line ends at its end.

    Parameters
    ----------
    path : Path
        The file itself, no symbolic link.
    setting : str
        Name of the setting, for messages.
    most_bytes : int
        A larger file is refused.

    Raises
    ------
    ConfigError
        It cannot be read, is empty or not text, or others could read or change it. No message quotes its content.
    """
    named = f"{setting}={path}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{named}: cannot be read: {error.strerror} (a symbolic link is not followed)") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(f"{named}: is not a regular file")
        if problem := not_private(info):
            raise ConfigError(f"{named}: {problem}: chmod 600 it, owned by the user that runs klais or by root")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(most_bytes + 1)
    finally:
        os.close(fd)
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{named}: is not UTF-8 text") from None
    if not text or len(data) > most_bytes:
        raise ConfigError(f"{named}: {'is empty' if not text else f'is larger than {most_bytes} bytes'}")
    return text


def not_private(info: os.stat_result) -> str:
    """Why a file with this mode may not hold a secret; empty when it may.

    The group root may read what root owns: systemd gives a service its credentials that way.
    """
    if problem := not_ours(info):
        return problem
    mode = stat.S_IMODE(info.st_mode)
    open_to = mode & 0o044
    if info.st_uid == 0 and info.st_gid == 0:
        open_to &= ~0o040
    return f"others can read it (mode {mode:04o})" if open_to else ""


def find_or_make_token(path: Path) -> str:
    """The token in a file that only this user can read; made when the file does not exist.

    Two processes that start together agree on one token: the first to link its file wins.

    Raises
    ------
    ConfigError
        It cannot be made, or others could read it.
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
        raise ConfigError(f"{path}: cannot be made: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be made: {error.strerror}. Set KLAIS_STATE_DIR, or set a token yourself"
        ) from None
    return read_secret(path, "token file")


def _link_once(own: Path, path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(own, path)
