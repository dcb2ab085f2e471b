"""Folders and files that only this user may change: made so, and refused where somebody else could have.

What KLAIS keeps on disk is telemetry, and some of it is code: numba's index files are pickles, the kernel runs kept BPF
instructions, a broker obeys its properties. So every folder is checked when it is opened, and no file is opened
through a symbolic link. Folders that you name (``KLAIS_STATE_DIR``) must not be writable by others; folders and files
that KLAIS itself makes below them are for this user alone (0700, 0600).
"""

import os
import stat
from pathlib import Path

from klais.errors import NotPrivate

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe put in a file's place must not make us wait


def be_private() -> None:
    """Give group and others no right to any file that this process and its children make."""
    os.umask(OTHERS)


def not_ours(info: os.stat_result) -> str:
    """Why the content of a file or folder like that could be somebody else's; empty when it is ours or root's."""
    if info.st_uid not in (0, os.geteuid()):
        return f"it belongs to uid {info.st_uid}, and this process runs as uid {os.geteuid()}"
    mode = stat.S_IMODE(info.st_mode)
    return f"others can write to it (mode {mode:04o})" if mode & OTHERS_MAY_WRITE else ""


def named_folder(path: Path, setting: str) -> Path:
    """A folder that a setting names: made for this user alone where it is missing, else only checked.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    NotPrivate
        It belongs to another user, others may write to it, or such a user's link leads to it.
    OSError
        It cannot be made or opened.
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
            f"the folder {path} cannot be used: {problem}. `chown` it to the user that runs klais and `chmod go-w` it, "
            f"or name another with {setting}: klais makes a new one for its user alone"
        )
    return path


def own_folder(path: Path) -> Path:
    """A folder of KLAIS's own, below a named one: made with 0700, and 0700 again where it was open to read.

    Raises
    ------
    NotPrivate
        It is a link, belongs to another user, or others may write to it: what lies there may be theirs.
    OSError
        It cannot be made or opened.
    """
    _make(path)
    os.close(open_folder(path))
    return path


def open_folder(path: Path) -> int:
    """A descriptor of a folder of our own. Files opened by it are those of this folder, whatever takes its place later.

    Raises
    ------
    NotPrivate
        See :func:`own_folder`.
    OSError
        It is not there, or cannot be opened.
    """
    if path.is_symlink():
        raise NotPrivate(f"{path} is a symbolic link where klais keeps a folder of its own: remove it")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        if problem := not_ours(info):
            raise NotPrivate(
                f"the folder {path} cannot be used: {problem}, so what lies there may be somebody else's: remove or "
                "rename it, and klais makes a new one for its user alone"
            )
        _tighten(fd, info, stat.S_IRWXU)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_tree(path: Path, root: Path) -> None:
    """Return when nobody else can have written what lies in ``path``: it, its entries, and all folders up to ``root``.

    Raises
    ------
    NotPrivate
        Names the first folder or entry that somebody else owns or may change.
    OSError
        It cannot be read.
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
            except FileNotFoundError:  # another process replaced it meanwhile
                continue
            if owner not in (0, os.geteuid()):
                raise NotPrivate(_CODE.format(path=entry, problem=f"it belongs to uid {owner}"))


_CODE = (
    "{path} holds code that this process would run, and {problem}. Remove it (klais makes it again), or name a cache "
    "folder of your own with KLAIS_CACHE_DIR"
)


def open_own(path: Path | str, flags: int, folder_fd: int | None = None) -> int:
    """Open a file of our own, made with 0600; never through a link.

    Parameters
    ----------
    flags : int
        As for ``os.open``. ``O_TRUNC`` empties the file only after it was found to be ours.
    folder_fd : int, optional
        Descriptor of the folder of a relative ``path``.

    Raises
    ------
    NotPrivate
        It is no regular file, belongs to another user, or others may write to it.
    OSError
        It cannot be opened.
    """
    try:
        fd = os.open(path, flags & ~os.O_TRUNC | _OPEN, 0o600, dir_fd=folder_fd)
    except OSError as error:
        if os.path.islink(path) and folder_fd is None:
            raise NotPrivate(f"{path} is a symbolic link where klais keeps a file of its own: remove it") from error
        raise
    try:
        info = os.fstat(fd)
        problem = not_ours(info) if stat.S_ISREG(info.st_mode) else "it is not a regular file"
        if problem:
            raise NotPrivate(f"the file {path} cannot be used: {problem}: remove it, and klais makes a new one")
        os.set_blocking(fd, True)
        _tighten(fd, info, stat.S_IRUSR | stat.S_IWUSR)
        if flags & os.O_TRUNC:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_own(path: Path, data: bytes) -> None:
    """Put ``data`` into a file of our own, whole or not at all: a new file with 0600 takes the old one's place.

    Raises
    ------
    OSError
        It cannot be written.
    """
    import secrets

    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _make(path: Path) -> None:
    """Make the folder and its missing parents, each for this user alone."""
    if path.is_dir():
        return
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            try:
                os.mkdir(folder, stat.S_IRWXU)
            except FileExistsError:
                if not folder.is_dir():
                    raise


def _tighten(fd: int, info: os.stat_result, mode: int) -> None:
    if info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) & OTHERS:
        os.fchmod(fd, mode)
