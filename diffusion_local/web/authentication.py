"""Authentication: determine from a token or cookie the account for which a request acts, and reject the others.

A token is sent as ``Authorization: Bearer``, ``Authorization: Token`` (cog), ``Authorization: Basic name:token``
(A1111), ``X-API-Key`` or ``Api-Key`` (Azure); a browser's session is a cookie. A signed URL also opens a picture.

While there are no accounts, requests act as the local admin, unless another machine may be able to send them: then they
are refused (``system.network.refusal_reason``). With ``auth = "none"`` all requests act as the local admin.
"""

import base64
import binascii
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusion_local import serializers
from diffusion_local.accounts.service import WINDOW, Accounts, network_of
from diffusion_local.actor import LOCAL, NOBODY, Actor, acting
from diffusion_local.errors import DatabaseProblem
from diffusion_local.messages import message
from diffusion_local.notify.signed_urls import Links
from diffusion_local.settings import Settings
from diffusion_local.system.network import refusal_reason
from diffusion_local.web.error_responses import NOT_CACHED, error_response
from diffusion_local.web.proxies import PASSED

#: Header of a response with status 401.
CHALLENGE = {"WWW-Authenticate": "Bearer"}
MOST_WRONG = 60  # unknown tokens that an address may send within WINDOW seconds
MOST_KEPT = 10_000  # remembered addresses, and remembered pairs of an address and a valid token
T = TypeVar("T")
#: Where a worker on another machine exchanges a pairing code for a token.
PAIRING = "/api/v1/machines/join"
PROBES = ("/healthz", "/readyz")  # open even while there are no accounts to sign in with
SHORTEST_LOOK = 1.0  # seconds for which the answer to "are there accounts?" is cached
CHECK_THREADS = 8
#: Key of the actor in the scope, for handlers that run outside the request's context (gradio's queue).
ACTOR_KEY = "diffusion_local.actor"
SESSION_KEY = "diffusion_local.session"
#: Key in the scope of a coroutine function for long requests: whether the same actor would still be admitted.
STILL_KEY = "diffusion_local.still"


def cookie_value(header: str, name: str) -> str:
    """The value of a cookie in a ``Cookie`` header (RFC 6265, section 4.2.1); empty if it is absent or quoted."""
    for pair in header.split(";"):
        found, _, value = pair.partition("=")
        if found.strip() == name:
            plain = value.strip()
            return "" if '"' in plain or "\\" in plain else plain
    return ""


class Cookies:
    """ASGI middleware: removes quoted cookies before anything else reads them. Our own are never quoted.

    Before Python 3.11.10, ``http.cookies``, and with it Starlette's ``request.cookies``, unquotes a value in quadratic
    time (CVE-2024-7592).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and any(name == b"cookie" for name, _ in scope["headers"]):
            headers = [(name, plain(value) if name == b"cookie" else value) for name, value in scope["headers"]]
            scope = dict(scope) | {"headers": headers}
        await self._app(scope, receive, send)


def plain(header: bytes) -> bytes:
    return b";".join(pair for pair in header.split(b";") if b'"' not in pair and b"\\" not in pair)


class TokenGuesses:
    """Limits how many unknown tokens an address may try. Tokens that were valid from there remain allowed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address: (count, start of the window)
        self._right: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def wait(self, address: str, token: str) -> float:
        """Seconds until the address may send this token; 0 if it may now."""
        count, since = self._wrong.get(address, (0, 0.0))
        left = since + WINDOW - self._clock()
        if count < MOST_WRONG or left <= 0 or (address, digest(token)) in self._right:
            return 0.0
        return left

    def note(self, address: str, token: str, right: bool) -> None:
        """Record the result of looking a token up."""
        if right:
            self._right[(address, digest(token))] = None
            self._right.move_to_end((address, digest(token)))
            trim(self._right)
            return
        now = self._clock()
        count, since = self._wrong.pop(address, (0, now))
        self._wrong[address] = (count + 1, since) if since + WINDOW > now else (1, now)
        trim(self._wrong)


def digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "replace")).digest()


def trim(entries: "OrderedDict[str, tuple[int, float]] | OrderedDict[tuple[str, bytes], None]") -> None:
    while len(entries) > MOST_KEPT:
        entries.popitem(last=False)


#: Paths that need no authentication: the sign-in with the files of its page, health checks, and pairing.
OPEN_PATHS = ("/login", "/logout", "/healthz", "/readyz", "/favicon.ico", "/assets/icons/", "/assets/fonts/", PAIRING)
#: Path prefix and requests for which a signed URL suffices (see ``notify.signed_urls``).
PICTURES, READS = "/images/", (("http", "GET"), ("http", "HEAD"))


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials in a request: a token, possibly with an account's name, or a session."""

    token: str = ""
    account: str = ""
    session: str = ""


def cookie_name(settings: Settings) -> str:
    """Name of the session cookie. It has the port in it, because browsers share cookies between ports of a host."""
    return f"diffusion_local_{settings.port}"


def read_credentials(headers: Headers, cookie: str) -> Credentials:
    """Read the credentials of a request. ``cookie``: the name of the session cookie."""
    key = headers.get("x-api-key") or headers.get("api-key", "")  # the latter from Azure's clients
    if key:
        return Credentials(token=key.strip())
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() in ("bearer", "token") and value.strip():
        return Credentials(token=value.strip())
    if kind.lower() == "basic":
        try:
            account, _, token = base64.b64decode(value.strip(), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return Credentials(token="?")
        if account or token:  # Open WebUI sends empty credentials if none are configured
            return Credentials(token=token or account, account=account if token else "")
    return Credentials(session=cookie_value(headers.get("cookie", ""), cookie))


class Access:
    """ASGI middleware: authenticates each request and lets it act for its account."""

    def __init__(self, app: ASGIApp, accounts: Accounts, settings: Settings) -> None:
        self._app = app
        self._accounts = accounts
        self._settings = settings
        self._cookie = cookie_name(settings)
        self._guesses = TokenGuesses()
        self._links = Links(settings)
        self._any = False
        self._looked = -SHORTEST_LOOK
        self._threads: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            who = await self._actor_or_response(scope)
        except DatabaseProblem as problem:
            unusable = error_response(503, problem.code, message("database_unusable"), {"Retry-After": "5"})
            await unusable(scope, receive, send)
            return
        if isinstance(who, Response):
            await who(scope, receive, send)
            return
        scope[ACTOR_KEY], scope[STILL_KEY] = who, lambda: self._still_admitted(dict(scope), who)
        with acting(who), self._signing(who):
            await self._app(scope, receive, send)

    def _signing(self, who: Actor) -> AbstractContextManager[None]:
        """A context that signs the URLs of pictures for an account; without accounts they need no signature."""
        if not who.name or who == NOBODY:
            return nullcontext()
        return serializers.with_signature(lambda path: self._links.query(path, who.name, who.token))

    async def _still_admitted(self, scope: Scope, who: Actor) -> bool:
        try:
            return await self._actor_or_response(scope) == who
        except DatabaseProblem:
            return True

    async def _actor_or_response(self, scope: Scope) -> Actor | Response:
        """The actor of a request, or the response that rejects it."""
        if self._settings.auth == "none":
            return LOCAL
        if not await self._has_accounts():
            reason = refusal_reason(self._settings, has_accounts=False, forwarded=scope.get(PASSED, ""))
            if not reason:
                return LOCAL
            return NOBODY if scope["path"] in PROBES else error_response(503, "no_accounts", reason)
        headers = Headers(scope=scope)
        brought = read_credentials(headers, self._cookie)
        who: Actor | None = None
        if brought.token:
            address = network_of((scope.get("client") or ("",))[0])
            if wait := self._guesses.wait(address, brought.token):
                return too_many(wait)
            who = await self._in_thread(self._accounts.by_token, brought.token, brought.account)
            self._guesses.note(address, brought.token, right=who is not None)
            if who is None:
                return error_response(401, "unauthorized", message("token_unknown"), CHALLENGE)
        elif brought.session:
            found = await self._in_thread(self._accounts.by_session, brought.session)
            if found:
                who, scope[SESSION_KEY] = found
        if who is None and (scope["type"], scope.get("method")) in READS and scope["path"].startswith(PICTURES):
            bearer = self._links.bearer(scope["path"], scope["query_string"].decode("latin-1"))
            if bearer:
                who = await self._in_thread(self._accounts.by_link, bearer.account, bearer.token)
        if who is None:
            open_path = scope["type"] == "http" and is_open_path(scope["path"], scope["method"])
            return NOBODY if open_path else rejection(scope, headers)
        return who

    async def _has_accounts(self) -> bool:
        now = time.monotonic()
        if now - self._looked >= SHORTEST_LOOK:
            self._any = await self._in_thread(self._accounts.any)
            self._looked = now
        return self._any

    async def _in_thread(self, ask: Callable[..., T], *args: str) -> T:
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(CHECK_THREADS)
        return await anyio.to_thread.run_sync(ask, *args, limiter=self._threads)


def is_open_path(path: str, method: str) -> bool:
    if path == PAIRING:
        return method == "POST"  # other methods are of a machine that is named so
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in OPEN_PATHS)


def rejection(scope: Scope, headers: Headers) -> Response:
    """The response to an unauthenticated request: a redirect to the sign-in if a browser opens a page, else 401."""
    if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
        back = str(scope["path"])
        if scope["query_string"]:
            back += "?" + scope["query_string"].decode("latin-1")
        root = str(scope.get("root_path", ""))
        return RedirectResponse(f"{root}/login?next={quote(back, safe='')}", 303, headers=NOT_CACHED)
    return error_response(401, "unauthorized", message("sign_in_first"), CHALLENGE)


def too_many(wait: float) -> Response:
    return error_response(429, "limit_reached", message("tokens_guessed"), {"Retry-After": str(ceil(wait))})
