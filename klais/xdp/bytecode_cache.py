"""Compiled filters on disk. The kernel runs them, so only files that no other user could write are used."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klais.system.private_files import not_ours

_DIGEST_BYTES = hashlib.sha256().digest_size


def read(folder: Path, fingerprint: str) -> bytes | None:
    """The instructions stored under ``fingerprint``; None if there are no trusted ones.

    Folder and file must belong to root or to this process's user and be writable by no one else, and the SHA-256 over
    fingerprint and instructions must match the stored one, so that a file of another variant is not used.
    """
    try:
        with _trusted(folder) as folder_fd:
            fd = os.open(_name(fingerprint), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
            with open(fd, "rb") as file:
                if not _is_trusted(os.fstat(file.fileno())):
                    return None
                digest, code = file.read(_DIGEST_BYTES), file.read()
    except OSError:
        return None
    return code if code and digest == _digest(fingerprint, code) else None


def write(folder: Path, fingerprint: str, code: bytes) -> None:
    """Store instructions atomically. If the folder cannot be written or trusted, nothing is stored (no error)."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _trusted(folder) as folder_fd:
            new = f".{fingerprint}.{secrets.token_hex(8)}"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
            with open(fd, "wb") as file:
                file.write(_digest(fingerprint, code) + code)
            os.replace(new, _name(fingerprint), src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        return


@contextmanager
def _trusted(folder: Path) -> Iterator[int]:
    """A descriptor of the folder for opening its files: a link that replaces the folder later has no effect.

    Raises
    ------
    OSError
        If it does not exist, is a link, or others may write to it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_trusted(os.fstat(fd)):
            raise PermissionError(f"{folder} belongs to another user, or others may write to it")
        yield fd
    finally:
        os.close(fd)


def _is_trusted(status: os.stat_result) -> bool:
    return not not_ours(status)


def _name(fingerprint: str) -> str:
    return f"{fingerprint}.bpf"


def _digest(fingerprint: str, code: bytes) -> bytes:
    return hashlib.sha256(fingerprint.encode() + b"\0" + code).digest()
