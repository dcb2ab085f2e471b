"""Folders and files that only this user may change: created that way, and refused if another user could change them.

KLAIS stores telemetry on disk, and also code: numba's index files are pickles, the kernel runs stored BPF instructions,
a broker obeys its properties. So every folder is checked when it is opened, and no file is opened through a symbolic
link. Folders that you name (``KLAIS_STATE_DIR``) must not be writable by others; folders and files that KLAIS creates
below them are for this user alone (0700, 0600).
"""

import errno
import os
import stat
from pathlib import Path

from klais.errors import NotPrivate

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # opening a pipe in place of a file must not block


def restrict_umask() -> None:
    """Remove all rights of group and others from files that this process and its children create."""
    os.umask(OTHERS)


def not_ours(info: os.stat_result) -> str:
    """Why another user could own or change such a file or folder; empty if it is ours or root's."""
    if info.st_uid not in (0, os.geteuid()):
        return f"it belongs to uid {info.st_uid}, and this process runs as uid {os.geteuid()}"
    mode = stat.S_IMODE(info.st_mode)
    return f"others can write to it (mode {mode:04o})" if mode & OTHERS_MAY_WRITE else ""


def named_folder(path: Path, setting: str) -> Path:
    """A folder named by a setting: created for this user alone if it is missing, else only checked.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    NotPrivate
        If it belongs to another user, others may write to it, or the link of another user leads to it.
    OSError
        If it cannot be created or opened.
    """
    _make(path)
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
        raise NotPrivate(f"{path} is a symbolic link of uid {link.st_uid}: name the folder itself with {setting}")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        problem = not_ours(os.fstat(fd))
    finally:
        os.close(fd)
    if problem:
        raise NotPrivate(
            f"the folder {path} cannot be used: {problem}. `chown` it to the user that runs KLAIS and `chmod go-w` it, "
            f"or name another with {setting}: KLAIS creates a new one for its user alone"
        )
    return path


def own_folder(path: Path) -> Path:
    """A folder of KLAIS below a named one: created with mode 0700, or set to 0700 if others could read it.

    Raises
    ------
    NotPrivate
        If it is a link, belongs to another user, or others may write to it, so that its content is not trusted.
    OSError
        If it cannot be created or opened.
    """
    _make(path)
    os.close(open_folder(path))
    return path


def open_folder(path: Path) -> int:
    """A descriptor of a private folder. Files opened by it are in this folder, even if its path is replaced later.

    Raises
    ------
    NotPrivate
        See :func:`own_folder`.
    OSError
        If it does not exist, or cannot be opened.
    """
    if path.is_symlink():
        raise NotPrivate(f"{path} is a symbolic link where KLAIS keeps its own folder: remove it")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if problem := not_ours(info):
            raise NotPrivate(
                f"the folder {path} cannot be used: {problem}, so its content may be another user's: remove or "
                "rename it, and KLAIS creates a new one for its user alone"
            )
        _tighten(fd, info, stat.S_IRWXU)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_tree(path: Path, root: Path) -> None:
    """Return if no other user can have written the content of ``path``: checks it, its entries, and all folders up to
    ``root``.

    Raises
    ------
    NotPrivate
        If another user owns or may change a folder or entry; the message names the first one.
    OSError
        If it cannot be read.
    """
    between = [path, *(folder for folder in path.parents if folder.is_relative_to(root))]
    for folder in between:
        info = os.lstat(folder)
        linked = stat.S_ISLNK(info.st_mode) and folder != root
        if problem := "it is a symbolic link" if linked else not_ours(os.stat(folder)):
            raise NotPrivate(_CODE.format(path=folder, problem=problem))
    for here, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = os.path.join(here, name)
            try:
                owner = os.lstat(entry).st_uid
            except FileNotFoundError:  # another process has replaced it
                continue
            if owner not in (0, os.geteuid()):
                raise NotPrivate(_CODE.format(path=entry, problem=f"it belongs to uid {owner}"))


_CODE = (
    "{path} holds code that this process would run, and {problem}. Remove it (KLAIS creates it again), or name a "
    "private cache folder with KLAIS_CACHE_DIR"
)


def open_own(path: Path | str, flags: int, folder_fd: int | None = None) -> int:
    """Open a private file, created with mode 0600; never through a link.

    Parameters
    ----------
    flags : int
        As for ``os.open``. ``O_TRUNC`` empties the file only after the check that it is ours.
    folder_fd : int, optional
        Descriptor of the folder of a relative ``path``.

    Raises
    ------
    NotPrivate
        If it is not a regular file, belongs to another user, or others may write to it.
    OSError
        If it cannot be opened.
    """
    try:
        fd = os.open(path, flags & ~os.O_TRUNC | _OPEN, 0o600, dir_fd=folder_fd)
    except OSError as error:
        if os.path.islink(path) and folder_fd is None:
            raise NotPrivate(f"{path} is a symbolic link where KLAIS keeps its own file: remove it") from error
        raise
    try:
        info = os.fstat(fd)
        problem = not_ours(info) if stat.S_ISREG(info.st_mode) else "it is not a regular file"
        if problem:
            raise NotPrivate(f"the file {path} cannot be used: {problem}: remove it, and KLAIS creates a new one")
        os.set_blocking(fd, True)
        _tighten(fd, info, stat.S_IRUSR | stat.S_IWUSR)
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_own(path: Path, data: bytes) -> None:
    """Write ``data`` to a private file atomically: a new file with mode 0600, synced to disk, replaces the old one.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import secrets

    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)  # else a power loss may leave an empty file in its place
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _make(path: Path) -> None:
    """Create the folder and its missing parents, each for this user alone."""
    if path.is_dir():
        return
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            try:
                os.mkdir(folder, stat.S_IRWXU)
            except FileExistsError:
                if not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def _tighten(fd: int, info: os.stat_result, mode: int) -> None:
    if info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) & OTHERS:
        os.fchmod(fd, mode)
