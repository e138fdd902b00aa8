"""Limits on the size of request bodies, by route, and of request headers.

Every route has a limit: ``MOST_BYTES``, unless ``larger`` lists its path. Bodies of unknown length are refused, so that
none has to be read to determine its length.
"""

import re
import sys

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusion_local.actor import NOBODY, Actor, current
from diffusion_local.actor import Scope as Scopes
from diffusion_local.messages import message
from diffusion_local.operations.registry import OPERATIONS
from diffusion_local.settings import Settings
from diffusion_local.web.error_responses import error_response

MOST_BYTES = 1024 * 1024
#: Bytes of small bodies that may be in memory at once; one account may use a quarter of them.
SMALL_BODIES = 64 * MOST_BYTES
#: Number of accounts that may each have a body of the largest size in memory at once.
LARGE_POOLS = 3
#: Limit for callers who have not signed in, who send a name and a password.
STRANGERS_BYTES = 64 * 1024
#: Limits of a JSON body: bytes outside of strings, and number of strings.
MAX_STRUCTURE = 500_000
MAX_TEXTS = 50_000
#: Paths whose body is a raw file.
RAW = frozenset({"/api/v1/worker", "/api/v1/lists", "/api/v1/lists/check", "/api/v1/queue/import", "/api/v1/sources"})
#: Path of predictions that names the model.
BY_MODEL = re.compile(r"/replicate/v1/models/[^/]+/[^/]+/predictions")
MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 * 1024
GRADIO_CALL_PATHS = ("run", "call", "call/v2")


def larger(settings: Settings) -> dict[str, int]:
    """Maximum body size by path, for the routes that take pictures or lists. ``{id}`` matches any last component."""
    picture = settings.max_source_mb * 1_000_000 + MOST_BYTES  # a form has some bytes around its file
    in_base64 = 2 * (settings.max_source_mb * 1_333_334) + MOST_BYTES  # a picture and its mask
    a_list = settings.max_list_mb * 1_000_000 + MOST_BYTES
    list_in_json = 2 * a_list  # escaped; or in Base64, as the page sends a dropped file
    return {
        "/api/v1/worker": in_base64,
        "/api/v1/lists": a_list,
        "/api/v1/lists/check": a_list,
        "/api/v1/queue/import": a_list,
        "/api/v1/sources": picture,
        "/api/v1/jobs": in_base64,
        "/v1/images/generations": in_base64,  # with controls or references
        "/v1/images/edits": 2 * picture,
        "/sdapi/v1/txt2img": in_base64,  # with ControlNet's units
        "/sdapi/v1/img2img": in_base64,
        "/sdapi/v1/interrogate": in_base64,
        "/controlnet/detect": in_base64,
        "/sdapi/v1/extra-single-image": in_base64,
        "/sdapi/v1/extra-batch-images": in_base64,
        "/sdapi/v1/png-info": in_base64,
        "/upload/image": picture,
        "/upload/mask": picture,
        "/mcp": max(in_base64, list_in_json),
        "/predictions": in_base64,
        "/replicate/v1/files": picture,
        "/predictions/{id}": in_base64,
        # Calls of the page and of Gradio's clients; the path does not tell which endpoint they call.
        "/gradio_api/run/predict": list_in_json,
        "/gradio_api/queue/join": list_in_json,
        **{f"/gradio_api/{path}/{name}": list_in_json for path in GRADIO_CALL_PATHS for name in endpoints_with_files()},
        "/gradio_api/upload": picture,
    }


def endpoints_with_files() -> list[str]:
    """Gradio endpoints that take a whole file as an argument: a list, a queue."""
    declared = (each.endpoint.partition("(") for each in OPERATIONS.values())
    return [name for name, _, takes in declared if "text=" in takes]


class Structure:
    """Counts the bytes of JSON text outside of its strings, while it arrives, in linear time. Small values take many
    times their length in memory and seconds to parse, so their number is bounded.
    """

    def __init__(self) -> None:
        self.bytes = self.quotes = 0
        self._inside = self._escaped = False

    @property
    def excessive(self) -> bool:
        return self.bytes > MAX_STRUCTURE or self.quotes > 2 * MAX_TEXTS

    def add(self, chunk: bytes) -> None:
        if self._escaped:
            chunk = chunk[1:]
        self._escaped = bool((len(chunk) - len(chunk.rstrip(b"\\"))) % 2)
        parts = chunk.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        self.bytes += sum(map(len, parts[int(self._inside) :: 2]))
        self.quotes += len(parts) - 1
        self._inside ^= len(parts) % 2 == 0


class Pool:
    """Bytes of bodies held in memory: at most ``each`` per account and ``most`` in total."""

    def __init__(self, each: int, most: int) -> None:
        self._each = each
        self._most = most
        self._held: dict[str, int] = {}

    def take(self, owner: str, size: int) -> bool:
        """Count ``size`` bytes; returns whether there is room for them."""
        self._held[owner] = self._held.get(owner, 0) + size
        return self._held[owner] <= self._each and sum(self._held.values()) <= self._most

    def give_back(self, owner: str, size: int) -> None:
        left = self._held.get(owner, 0) - size
        if left > 0:
            self._held[owner] = left
        else:
            self._held.pop(owner, None)


class BodyLimit:
    """ASGI middleware: 413 for a body that is too long, 411 for one of unknown length, 431 for a header that is too
    long.

    Bodies in memory share two pools, so that large ones never block small ones, and no account blocks another. Beyond a
    pool the response is 503. Accounts that neither submit nor work get small limits, and unauthenticated callers can
    only sign in.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._larger = larger(settings)
        largest = max(self._larger.values())
        self._large = Pool(largest, LARGE_POOLS * largest)
        self._small = Pool(SMALL_BODIES // 4, SMALL_BODIES)

    def limit_of(self, path: str) -> int:
        found = self._larger.get(path) or self._larger.get(f"{path.rpartition('/')[0]}/{{id}}")
        if not found and BY_MODEL.fullmatch(path):
            found = self._larger["/predictions"]
        return found or MOST_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who = current()
        most = min(self.limit_of(scope["path"]), allowed_to(who))
        refused = refusal_of(scope, most)
        if refused:
            await refused(scope, receive, send)
            return
        headers = Headers(scope=scope)
        pool = self._large if int(headers.get("content-length", "0")) > MOST_BYTES else self._small
        structure = Structure() if is_json(scope["path"], headers) else None
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            body = message.get("body", b"") if message["type"] == "http.request" else b""
            taken += len(body)
            room = pool.take(who.name, len(body))
            if taken > most:  # not every server enforces Content-Length
                raise HTTPException(413, too_long(most))
            if not room:
                raise HTTPException(503, too_many_bodies(), headers={"Retry-After": "2"})
            if structure is not None:
                structure.add(body)
                if structure.excessive:
                    raise HTTPException(413, too_complex())
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            pool.give_back(who.name, taken)


def allowed_to(who: Actor) -> int:
    """Maximum body size for a caller on any route."""
    if who == NOBODY:
        return STRANGERS_BYTES
    return sys.maxsize if who.scopes & {Scopes.SUBMIT, Scopes.WORKER} else MOST_BYTES


def is_json(path: str, headers: Headers) -> bool:
    """Whether a body is parsed as JSON, so that its structure counts."""
    return path not in RAW and not headers.get("content-type", "").lower().startswith(("multipart/", "text/csv"))


def refusal_of(scope: Scope, most: int) -> JSONResponse | None:
    """The error response for a request whose header alone shows that it is too large."""
    lines = scope["headers"]
    if len(lines) > MOST_HEADERS or sum(len(name) + len(value) + 4 for name, value in lines) > MOST_HEADER_BYTES:
        text = message("header_size", lines=MOST_HEADERS, size=MOST_HEADER_BYTES)
        return error_response(431, "request_header_fields_too_large", text)
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers:  # which overrides any Content-Length (RFC 9112, section 6.3)
        text = message("length_needed")
        return error_response(411, "length_required", text)
    length = headers.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        return error_response(400, "bad_request", message("length_number"))
    if length is not None and (len(length) > 18 or int(length) > most):
        return error_response(413, "content_too_large", too_long(most))
    return None


def too_long(most: int) -> str:
    return message("body_size", most=most)


def too_many_bodies() -> str:
    return message("bodies_many")


def too_complex() -> str:
    return message("body_structure", most=MAX_STRUCTURE)
