"""The store of models: those in the package, those that you trained, and which of them is active."""

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from klais.config.load import Settings
from klais.errors import ModelRefused, NotPrivate
from klais.models.card import CARD, Card, read_card, read_file
from klais.system.private_files import open_own, own_folder, write_own

ACTIVE = "active"  # a file in a kind's folder: the version to use
MAX_OWN_VERSIONS = 5  # newest own versions of a kind that training keeps


@dataclass(frozen=True, slots=True)
class Model:
    """A folder with a model. If it is refused, ``card`` is None and ``problem`` is the reason."""

    kind: str
    version: str
    folder: Path
    shipped: bool
    active: bool
    card: Card | None
    problem: str = ""

    def read(self, name: str) -> bytes:
        """The content of one of its files, checked.

        Raises
        ------
        ModelRefused
            See :func:`klais.models.card.read_file`.
        """
        if self.card is None:
            raise ModelRefused(self.problem)
        return read_file(self.folder, self.card, name)

    def check(self) -> str:
        """Why it cannot be used, after reading all its files; empty if it can."""
        try:
            for name in self.card.files if self.card else ():
                self.read(name)
        except ModelRefused as error:
            return str(error)
        return self.problem


class ModelStore:
    """Models of all kinds.

    Parameters
    ----------
    own : Path
        Folder of your own models: ``<own>/<kind>/<version>/card.json``.
    shipped : Path, optional
        Folder of the models in the package.
    """

    def __init__(self, own: Path, shipped: Path | None = None) -> None:
        self.own = own
        self._shipped = shipped or Path(str(resources.files("klais.models") / "data"))

    @classmethod
    def of(cls, settings: Settings) -> "ModelStore":
        """The store in ``KLAIS_MODELS_DIR``, else ``models`` in the state folder."""
        return cls(settings.models_dir or settings.state_dir / "models")

    def active_version(self, kind: str) -> str | None:
        """The activated version; None = the one in the package."""
        try:
            fd = open_own(self.own / kind / ACTIVE, os.O_RDONLY)
        except (OSError, NotPrivate):
            return None
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read(200).strip() or None

    def stamp(self, kind: str) -> tuple[str | None, int]:
        """A value that changes when another version is activated; running processes compare it before loading."""
        path = self.own / kind / ACTIVE
        try:
            return self.active_version(kind), path.stat().st_mtime_ns
        except OSError:
            return None, 0

    def models(self, kind: str) -> list[Model]:
        """All models of a kind: the active one, then own ones by name, then those in the package."""
        active = self.active_version(kind)
        found = [
            self._model(kind, folder, shipped, active)
            for root, shipped in ((self.own, False), (self._shipped, True))
            for folder in sorted(_folders(root / kind), reverse=True)
        ]
        if active is None and (first := next((m for m in found if m.shipped), None)):
            at = found.index(first)
            found[at] = Model(first.kind, first.version, first.folder, True, True, first.card, first.problem)
        return sorted(found, key=lambda model: not model.active)

    def kinds(self) -> list[str]:
        """Kinds with a folder."""
        return sorted({folder.name for root in (self.own, self._shipped) for folder in _folders(root)})

    def candidates(self, kind: str) -> list[Model]:
        """Models to try, in order: the active one, then those in the package."""
        return [model for model in self.models(kind) if model.active or model.shipped]

    def activate(self, kind: str, version: str) -> Model:
        """Activate a version; running processes load it within seconds.

        Raises
        ------
        ModelRefused
            If there is no such model, or it cannot be used.
        """
        found = {model.version: model for model in reversed(self.models(kind))}
        if version not in found:
            raise ModelRefused(f"no model {kind} {version}; there are {', '.join(found) or 'none'}")
        if problem := found[version].check():
            raise ModelRefused(problem)
        self._folder(kind)
        write_own(self.own / kind / ACTIVE, version.encode() + b"\n")
        return found[version]

    def new_folder(self, kind: str, version: str) -> Path:
        """Folder of a new own model."""
        return self._folder(kind) / version

    def _folder(self, kind: str) -> Path:
        own_folder(self.own)
        return own_folder(self.own / kind)

    def _model(self, kind: str, folder: Path, shipped: bool, active: str | None) -> Model:
        is_active = folder.name == active
        try:
            card = read_card(folder)
            if card.kind != kind or card.version != folder.name:
                raise ModelRefused(f"{folder / CARD} is for {card.kind} {card.version}: it belongs to another folder")
        except ModelRefused as error:
            return Model(kind, folder.name, folder, shipped, is_active, None, str(error))
        return Model(kind, folder.name, folder, shipped, is_active, card)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    except OSError:
        return []
