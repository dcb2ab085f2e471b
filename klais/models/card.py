"""The card of a model: its kind, training data and figures, and the hash of each of its files."""

import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klais.errors import ModelNotWritten, ModelRefused
from klais.system import shallow_json
from klais.system.private_files import not_ours

CARD = "card.json"
FORMAT = 1
MAX_BYTES = 256 << 20  # maximum size of one file
MAX_CARD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Card:
    """Contents of ``card.json``.

    Attributes
    ----------
    kind, version : str
        The purpose of the model (``traffic``), and its name among those of this kind.
    files : dict of str to str
        Name -> SHA-256.
    about : dict
        All contents: data and its licences, seed, script, libraries, figures.
    """

    kind: str
    version: str
    files: dict[str, str]
    about: dict[str, Any]


def read_card(folder: Path) -> Card:
    """Read and check the card of a folder; :func:`read_file` checks the files.

    Raises
    ------
    ModelRefused
        If it is missing, damaged, of another format, or owned by another user.
    """
    _check_owner(folder)
    raw = _read(folder / CARD, MAX_CARD_BYTES)
    try:
        about = shallow_json.loads(raw)
        card = Card(str(about["kind"]), str(about["version"]), dict(about["files"]), about)
        version = about["format"]
    except (ValueError, TypeError, KeyError) as error:
        do = "Remove the folder, or train the model again"
        raise ModelRefused(f"{folder / CARD} is damaged: {error!r}. {do}") from error
    if version != FORMAT:
        raise ModelRefused(f"{folder} has format {version!r}, this version of KLAIS reads {FORMAT}: train it again")
    texts = all(isinstance(text, str) for pair in card.files.items() for text in pair)
    if not texts or any(Path(name).name != name for name in card.files):
        raise ModelRefused(f"{folder / CARD} is damaged: a file name points outside of the folder")
    return card


def read_file(folder: Path, card: Card, name: str) -> bytes:
    """The content of one file of a model, checked against the card's hash.

    Raises
    ------
    ModelRefused
        If it is not in the card, is missing or owned by another user, or its hash differs.
    """
    if name not in card.files:
        raise ModelRefused(f"{folder} holds no {name}: train the model again with the libraries that make it")
    data = _read(folder / name, MAX_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != card.files[name]:
        raise ModelRefused(
            f"{folder / name} is damaged: its SHA-256 begins with {found[:12]}, the card says {card.files[name][:12]}. "
            "Remove the folder, or train the model again"
        )
    return data


def write_model(folder: Path, files: dict[str, bytes], about: dict[str, Any]) -> Card:
    """Write a model's files, the card last, so that an unfinished folder is not a model.

    Raises
    ------
    ModelNotWritten
        If a file cannot be written, for example because the disk is full; what was written is removed.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    whole = {"format": FORMAT, **about, "files": digests}
    text = json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    new, part = not folder.is_dir() or not any(folder.iterdir()), folder
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, data in [*files.items(), (CARD, text.encode())]:
            part = folder / f".{name}.part"
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power loss may leave a card whose files are empty
            part.chmod(0o644)
            os.replace(part, folder / name)
    except OSError as error:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        elif part != folder:
            part.unlink(missing_ok=True)
        raise ModelNotWritten(f"{error.filename or part} cannot be written: {error.strerror or error}") from error
    return Card(str(about["kind"]), str(about["version"]), digests, whole)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name with a NUL, or one that is not text
        raise ModelRefused(f"{path.parent} has an impossible file name: {path.name!r}") from error
    info = os.fstat(fd)
    if stat.S_ISDIR(info.st_mode):  # which open() refuses
        os.close(fd)
        raise ModelRefused(f"{path} is a folder")
    with open(fd, "rb") as file:
        if not stat.S_ISREG(info.st_mode) or info.st_size > max_bytes:
            raise ModelRefused(f"{path} is not a regular file of at most {max_bytes:,} bytes")
        if problem := not_ours(info):
            raise ModelRefused(f"{path} is not used: {problem}. `chown` and `chmod go-w` it if it is yours")
        return file.read()


def _check_owner(folder: Path) -> None:
    try:
        info = os.lstat(folder)
    except OSError as error:
        raise ModelRefused(f"{folder} cannot be read: {error.strerror}") from error
    problem = not_ours(info) if stat.S_ISDIR(info.st_mode) else "it is not a folder"
    if problem:
        raise ModelRefused(f"{folder} is not used: {problem}. `chown` and `chmod go-w` it if it is yours")
