"""The files of the page: read once, served with their hash as ETag and a policy that forbids external content."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import web

from klais.http.errors import HttpError, shown

TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # names have no hash: the browser revalidates with the ETag
    "Vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, the compressed bytes, its type and its ETag."""

    body: bytes
    packed: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> "Asset":
        """The file ``name``."""
        kind = TYPES.get(name[name.rfind(".") :], "application/octet-stream")
        return cls(body, gzip.compress(body, 9, mtime=0), kind, hashlib.sha256(body).hexdigest()[:32])


def load_assets() -> dict[str, Asset]:
    """All files below ``static/`` by their relative path."""
    out: dict[str, Asset] = {}
    _walk(files("klais.ui").joinpath("static"), "", out)
    return out


def _walk(folder: Traversable, prefix: str, out: dict[str, Asset]) -> None:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            _walk(entry, name + "/", out)
        elif name[name.rfind(".") :] in TYPES:
            out[name] = Asset.of(name, entry.read_bytes())


def serve(assets: Mapping[str, Asset], request: web.Request) -> web.Response:
    """The file that a request names, by default ``index.html``.

    Raises
    ------
    HttpError
        404, if there is no such file.
    """
    name = request.match_info.get("name", "") or "index.html"
    asset = assets.get(name)
    if asset is None:
        raise HttpError(404, "not_found", f"the page has no file {shown(name)}")
    headers = HEADERS | {"ETag": f'"{asset.etag}"'}
    if asset.etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    packed = "gzip" in request.headers.get("Accept-Encoding", "")
    if packed:
        headers["Content-Encoding"] = "gzip"
    body = asset.packed if packed else asset.body
    return web.Response(body=body, content_type=asset.content_type, charset="utf-8", headers=headers)
