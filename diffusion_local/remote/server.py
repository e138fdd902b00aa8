"""HTTP requests to a studio; failures are raised as the errors that the Studio itself would raise."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from diffusion_local import __version__, errors
from diffusion_local.errors import InvalidParams, LimitReached, ServerProblem, Unauthorized, UserError, echo
from diffusion_local.messages import deserialize, message
from diffusion_local.operations.operation import API_ROOT

CONNECT_SECONDS, READ_SECONDS = 5.0, 120.0
CODES = {each.code: each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, UserError)}
NO_ADDRESS = "There is no such address"  # from a server that sends no message ids


class RemoteServer:
    """A server. ``url``: as in a browser, http:// optional; ``token``: a personal API token."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = normalise_url(url)
        headers = {"User-Agent": f"diffusion-local/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=self.url, headers=headers, timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        )

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, params=query_params(query))

    def post(self, path: str, body: Any = None, **more: Any) -> Any:
        return self.request("POST", path, json=body, **more)

    def request(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of a response. Raises the UserError that it describes, or ServerProblem."""
        with self._connection_errors():
            answer = self._client.request(method, API_ROOT + path, **request)
        if answer.is_success:
            return parse_body(answer, self.url)
        raise self._error(answer)

    def stream_lines(self, path: str, **query: Any) -> Iterator[str]:
        """Stream the lines of a text."""
        with (
            self._connection_errors(),
            self._client.stream("GET", API_ROOT + path, params=query_params(query)) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise self._error(answer)
            rest = ""
            for chunk in answer.iter_text():  # not iter_lines, which also splits at other Unicode line breaks
                *whole, rest = (rest + chunk).split("\n")
                yield from (f"{line}\n" for line in whole)
            if rest:
                yield rest

    def stream_bytes(self, path: str, **query: Any) -> Iterator[bytes]:
        """Stream a file."""
        with (
            self._connection_errors(),
            self._client.stream("GET", API_ROOT + path, params=query_params(query)) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise self._error(answer)
            yield from answer.iter_bytes()

    def fetch_file(self, path: str) -> bytes:
        """Fetch a file outside of the API, such as a picture."""
        with self._connection_errors():
            answer = self._client.get(path)
        if answer.is_success:
            return answer.content
        raise self._error(answer)

    @contextmanager
    def _connection_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise ServerProblem(message("server_silent", url=self.url)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from None

    def _error(self, answer: httpx.Response) -> UserError:
        fault = parse_body(answer, self.url).get("error")
        if not isinstance(fault, dict):
            return ServerProblem(message("server_status", url=self.url, status=answer.status_code))
        text, code = str(fault.get("message", "")), str(fault.get("code", ""))
        reason = deserialize(text, fault)
        if answer.status_code == 401:
            return Unauthorized(message("server_sign_in", url=self.url, problem=reason))
        if answer.status_code == 405 or text.startswith(NO_ADDRESS):
            version = self._version()
            return ServerProblem(message("server_version", url=self.url, there=version, here=__version__))
        if code == InvalidParams.code:
            field, _, problem = text.partition(": ")
            return InvalidParams(field, deserialize(problem, fault))
        if code == LimitReached.code:
            return LimitReached(reason, int(answer.headers.get("Retry-After", 0)))
        return CODES.get(code, UserError)(reason)

    def _version(self) -> str:
        with self._connection_errors():
            return str(parse_body(self._client.get("/healthz"), self.url).get("version", "another version"))


def path_segment(name: str) -> str:
    """Escape an id as one path segment."""
    return quote(name, safe="", errors="replace")


def normalise_url(url: str) -> str:
    """Normalise a URL. Raises InvalidParams."""
    whole = url if re.match(r"https?://", url) else f"http://{url}"
    try:
        parsed = httpx.URL(whole)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if "://" in whole[8:] or not re.fullmatch(r"[\w.:-]+", parsed.host) or parsed.query or parsed.userinfo:
        raise InvalidParams("server", message("server_url", got=echo(url)))
    return whole.rstrip("/")


def unreachable(url: str, error: Exception) -> ServerProblem:
    """The error for a server that cannot be reached. It says if the URL has the wrong scheme of http and https."""
    secure = url.startswith("https://")
    if secure and re.search(r"wrong.version.number|record.layer", str(error), re.IGNORECASE):
        return ServerProblem(message("server_not_secure", url=url, other=f"http{url.removeprefix('https')}"))
    if not secure and isinstance(error, httpx.RemoteProtocolError):
        return ServerProblem(message("server_secure", url=url, other=f"https{url.removeprefix('http')}"))
    return ServerProblem(message("server_unreachable", url=url, error=error))


def query_params(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None and value != ""}


def parse_body(answer: httpx.Response, url: str) -> Any:
    """The parsed JSON body. Raises ServerProblem for other content, such as a page of another program or a proxy."""
    try:
        return answer.json()
    except ValueError:
        raise ServerProblem(message("server_other", url=url, status=answer.status_code)) from None
