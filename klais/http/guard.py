"""Checks before every handler of both servers: limits, host names, browsers, tokens, and errors in one format."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.typedefs import Middleware

from klais.config.checks import split_list
from klais.config.load import Settings
from klais.http.access import Access
from klais.http.addresses import Ip, Network, RateLimit, bucket_of, client_of, parse_ip, parse_networks
from klais.http.connections import Connection
from klais.http.errors import HttpError, of_http_exception, secure, shown
from klais.http.hosts import AllowedHosts
from klais.http.session import COOKIE
from klais.telemetry import log as logs

log = logs.get("klais.http.guard")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

VERSIONS = (HttpVersion10, HttpVersion11)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
HEALTH = frozenset({"/health", "/livez", "/readyz"})
"""Paths of probes: they need no token, and requests from this machine are not rate limited."""
PUBLIC = "/ui/"
"""Prefix of the files of the page and its login: they reveal nothing of the system and need no token."""
OWN_SITES = frozenset({"none", "same-origin"})


@dataclass(frozen=True, slots=True)
class Guard:
    """The checks of one server.

    Parameters
    ----------
    hosts : AllowedHosts
        Names of the server.
    access : Access
        Tokens.
    proxies : sequence of networks
        Proxies whose ``X-Forwarded-For`` is trusted.
    limiter : RateLimit
        Requests per second of one client.
    """

    hosts: AllowedHosts
    access: Access = field(default_factory=Access)
    proxies: Sequence[Network] = ()
    limiter: RateLimit = field(default_factory=RateLimit)

    @classmethod
    def of(cls, settings: Settings, host: str, access: Access) -> "Guard":
        """Create it for a server that listens on ``host``."""
        return cls(AllowedHosts(host, split_list(settings.api_hosts)), access, parse_networks(settings.api_proxies))

    def install(self, app: web.Application) -> None:
        """Install it before all other middleware of an application that has not started."""
        app.middlewares.insert(0, self._middleware())
        app.on_response_prepare.append(_secure)

    def client(self, request: web.BaseRequest) -> Ip | None:
        """Address of the client of a request."""
        return client_of(request.remote, request.headers.getall("X-Forwarded-For", []), self.proxies)

    def is_encrypted(self, request: web.BaseRequest) -> bool:
        """Whether the browser uses TLS, with this server or with a trusted proxy in front of it."""
        peer = parse_ip(request.remote)
        proxied = peer is not None and any(peer in network for network in self.proxies)
        last = ",".join(request.headers.getall("X-Forwarded-Proto", [])).rpartition(",")[2]
        return request.secure or (proxied and last.strip().lower() == "https")

    def check(self, request: web.Request) -> None:
        """Return if the request may proceed to its handler.

        Raises
        ------
        HttpError
            429, 400, 421, 403, 401 or 415: the first check that fails.
        """
        ip = self.client(request)
        health = request.path in HEALTH
        probe = health and ip is not None and ip.is_loopback
        if not probe and not self.limiter.allow(bucket_of(ip), time.monotonic_ns()):
            raise HttpError(
                429, "too_many_requests", f"at most {self.limiter.per_s:g} requests per second from one address"
            )
        self._check_host(request)
        _check_browser(request)
        self._check_token(request, health)
        _check_content(request)

    def _check_host(self, request: web.Request) -> None:
        """Refuse unknown ``Host`` headers: a web page whose name points at us (DNS rebinding) sends its own name."""
        given = request.headers.getall("Host", [])
        if not given and request.version < HttpVersion11:  # not a browser: some load balancers probe without Host
            return
        if len(given) != 1:
            raise HttpError(400, "bad_host", "a request must have one Host header")
        if not self.hosts.allows(given[0]):
            text = f"{shown(given[0])!r} is not a name of this server: if it should be, add it to KLAIS_API_HOSTS"
            raise HttpError(421, "unknown_host", text)

    def _check_token(self, request: web.Request, health: bool) -> None:
        if health or request.path.startswith(PUBLIC) or (request.path == "/" and wants_html(request)):
            return
        given, cookie = request.headers.get("Authorization"), request.cookies.get(COOKIE)
        if request.method not in SAFE:
            if not self.access.may_change(given, cookie):
                raise HttpError(401, "unauthorized", "a change needs the header Authorization: Bearer TOKEN")
        elif not self.access.may_read(given, cookie):
            raise HttpError(401, "unauthorized", "reading needs the header Authorization: Bearer TOKEN")

    def _middleware(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            connection = request.protocol
            if isinstance(connection, Connection):
                connection.begin()
                if request.version not in VERSIONS:  # the parser also accepts 0.9, which has no headers, and 2.0
                    error = HttpError(400, "bad_request", "the version of HTTP is neither 1.0 nor 1.1")
                    connection.close_with(error)
                    return error.response()  # aiohttp finds the connection closed
            try:
                return await self.answer(request, handler)
            finally:
                if isinstance(connection, Connection):
                    connection.end()

        return guard

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the handler's response if the checks succeed; all errors have the common format."""
        try:
            self.check(request)
            return await handler(request)
        except HttpError as error:
            return error.response()
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return of_http_exception(error, request)
        except web.RequestPayloadError:
            return HttpError(400, "bad_request", "the body does not match its headers").response()
        except ConnectionError:  # the client closed the connection while its body was read
            return HttpError(400, "client_gone", "the connection was closed").response()
        except Exception:
            log.exception("request_failed", path=shown(request.path))
            return HttpError(500, "internal_error", "this is a defect; the log has its traceback").response()


def _check_browser(request: web.Request) -> None:
    """Refuse requests that a page of another origin makes a browser send, except followed links."""
    site = request.headers.get("Sec-Fetch-Site", "none").lower()
    origin = request.headers.get("Origin")
    if request.method in SAFE:
        followed = (
            request.headers.get("Sec-Fetch-Mode") == "navigate" and request.headers.get("Sec-Fetch-Dest") == "document"
        )
        if site in OWN_SITES or followed:
            return
    else:
        own = f"//{request.headers.get('Host', '')}".lower()
        if site in OWN_SITES and (origin is None or origin.lower() in (f"http:{own}", f"https:{own}")):
            return
    raise HttpError(403, "cross_origin", "a web page of another origin may not do this")


def wants_html(request: web.BaseRequest) -> bool:
    """Whether a browser sent the request: it prefers HTML, where programs accept anything or JSON."""
    first = request.headers.get("Accept", "").partition(",")[0].partition(";")[0].strip().lower()
    return first == "text/html"


def _check_content(request: web.Request) -> None:
    """Require that a change declares JSON: an HTML form of another site cannot send that."""
    if request.method in SAFE or request.match_info.http_exception is not None:
        return
    if request.content_type != "application/json":
        raise HttpError(415, "unsupported_media_type", "the request needs the header Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise HttpError(415, "unsupported_media_type", "the body must not be compressed")


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    secure(response)
