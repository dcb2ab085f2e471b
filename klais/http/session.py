"""Sessions of browsers: a cookie with name and expiry, signed with the token of the login.

A session is valid at every server that knows the token, and expires with the token. The cookie is ``HttpOnly`` and
``SameSite=Strict``, so no script can read it, and no page of another site makes a browser send it.
"""

import base64
import binascii
import hashlib
import hmac
import time
from dataclasses import dataclass

import orjson

COOKIE = "klais_session"
HOURS = 8
MAX_NAME_CHARS = 64  # characters of a name
_DOMAIN = b"klais-session-v1"


@dataclass(frozen=True, slots=True)
class Session:
    """Name of the user, and the end of the session (s since the epoch)."""

    name: str
    until_s: int


def sign(token_digest: bytes, name: str, now_s: float | None = None, for_s: float = HOURS * 3600) -> str:
    """The value of a cookie for ``name`` that is valid for ``for_s``, signed with the SHA-256 digest of a token (32
    bytes)."""
    until_s = int((time.time() if now_s is None else now_s) + for_s)
    body = base64.urlsafe_b64encode(orjson.dumps([name[:MAX_NAME_CHARS], until_s])).decode()
    return f"{body}.{_mac(token_digest, body)}"


def verify(value: str | None, token_digests: tuple[bytes, ...], now_s: float | None = None) -> Session | None:
    """The session of a cookie's value, None if it is invalid, expired, or signed with another token."""
    body, _, mac = (value or "").partition(".")
    given = mac.encode(errors="replace")  # a header may hold bytes that are not text
    if not any([hmac.compare_digest(given, _mac(known, body).encode()) for known in token_digests]):
        return None
    try:
        name, until_s = orjson.loads(base64.urlsafe_b64decode(body))
    except (ValueError, TypeError, binascii.Error):
        return None
    now_s = time.time() if now_s is None else now_s
    return Session(str(name), int(until_s)) if until_s > now_s else None


def cookie_header(value: str, secure: bool) -> str:
    """The ``Set-Cookie`` header; an empty value ends the session."""
    age_s = HOURS * 3600 if value else 0
    return f"{COOKIE}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")


def _mac(token_digest: bytes, body: str) -> str:
    key = hmac.digest(token_digest, _DOMAIN, hashlib.sha256)
    return hmac.digest(key, body.encode(errors="replace"), hashlib.sha256).hex()
