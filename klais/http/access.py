"""Who may read and who may change: tokens, by where a server listens."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from klais.config.secret import Secret
from klais.config.secret_file import find_or_make_token, read_secret
from klais.config.settings import SettingsFields
from klais.http.session import Session, sign, verify
from klais.http.tokens import TOKEN_FILE, text_of_secret
from klais.system.address import is_loopback

if TYPE_CHECKING:
    from klais.config.load import Settings


@dataclass(frozen=True, slots=True)
class Access:
    """What a request needs. Tokens are kept as SHA-256 digests: comparing them says nothing of a token's length.

    Attributes
    ----------
    change, read : tuple of bytes
        Digests of the tokens that allow changes, and of those that allow reading (a token for changes is one of them).
    changes_need, reads_need : bool
        Whether a request needs one at all.
    generated : Path or None
        File of the token that was made because none was set.
    """

    change: tuple[bytes, ...] = ()
    read: tuple[bytes, ...] = ()
    changes_need: bool = False
    reads_need: bool = False
    generated: Path | None = None

    @classmethod
    def of(cls, settings: SettingsFields, host: str, changes: bool = True) -> "Access":
        """For a server that listens on ``host``; ``changes``: whether anything can be changed there.

        On loopback a request needs a token where one is set. Elsewhere it always needs one (reading only unless
        ``KLAIS_API_OPEN_READS``), and where none is set one is made in the state folder.

        Raises
        ------
        klais.errors.ConfigError
            A token is needed, none is set, and none can be made.
        """
        change, read = text_of_secret(settings.api_token), text_of_secret(settings.api_read_token)
        away = not is_loopback(host)
        reads_need = read is not None or (away and not settings.api_open_reads)
        generated = None
        if away and change is None and (changes or (reads_need and read is None)):
            generated = settings.state_dir / TOKEN_FILE
            change = find_or_make_token(generated)
        for_change = tuple(digest(token) for token in (change,) if token)
        for_read = tuple(digest(token) for token in (read, change) if token)
        return cls(for_change, for_read, away or change is not None, reads_need, generated)

    def may_read(self, authorization: str | None, cookie: str | None = None) -> bool:
        """Whether a request with that ``Authorization`` header or session cookie may read."""
        return not self.reads_need or _is_one(authorization, self.read) or verify(cookie, self.read) is not None

    def may_change(self, authorization: str | None, cookie: str | None = None) -> bool:
        """Whether it may change something."""
        return not self.changes_need or _is_one(authorization, self.change) or self.session(cookie) is not None

    def session(self, cookie: str | None) -> Session | None:
        """The session of somebody who logged in with a token for changes."""
        return verify(cookie, self.change)

    def log_in(self, token: str, name: str) -> str | None:
        """The value of a session cookie for ``name``, None where ``token`` is none of ours."""
        given = digest(token)
        known = [each for each in {*self.change, *self.read} if hmac.compare_digest(given, each)]
        return sign(known[0], name) if known else None


def with_token(settings: "Settings", access: Access) -> "Settings":
    """The settings with the token that was made for them, for processes that must know it."""
    if access.generated is None:
        return settings
    return settings.model_copy(update={"api_token": Secret(read_secret(access.generated, "token file"))})


def digest(token: str) -> bytes:
    """SHA-256 of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _is_one(authorization: str | None, digests: tuple[bytes, ...]) -> bool:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    given = digest(token.strip())
    found = [hmac.compare_digest(given, known) for known in digests]  # all of them: the time says nothing
    return any(found)
