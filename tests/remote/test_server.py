"""What a server may answer, or not: every fault is a sentence that says what to do."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from diffusion_local import __version__
from diffusion_local.errors import (
    Gone,
    InvalidParams,
    LimitReached,
    QueueBlocked,
    ServerProblem,
    Unauthorized,
    UserError,
)
from diffusion_local.remote.server import RemoteServer, normalise_url, unreachable
from tests.remote.conftest import Run
from tests.web.conftest import free_port

Handler = Callable[[httpx.Request], httpx.Response]


def served(handler: Handler, token: str = "") -> RemoteServer:
    server = RemoteServer("studio:7860", token)
    server._client = httpx.Client(
        base_url=server.url, headers=server._client.headers, transport=httpx.MockTransport(handler)
    )
    return server


def refused(status: int, code: str, message: str, **more: Any) -> Handler:
    result = {"error": {"code": code, "message": message} | more}
    return lambda request: (
        httpx.Response(200, json={"version": "0.0.1"})
        if request.url.path == "/healthz"
        else httpx.Response(status, json=result)
    )


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("studio:7860", "http://studio:7860"),
        ("http://studio:7860/", "http://studio:7860"),
        ("https://studio.local/images", "https://studio.local/images"),
        ("127.0.0.1", "http://127.0.0.1"),
    ],
)
def test_an_address_is_what_one_types_into_a_browser(typed: str, url: str) -> None:
    assert normalise_url(typed) == url


@pytest.mark.parametrize(
    "typed", ["http://", "http://a:b:c", "http://me:secret@studio", "http://studio?x=1", "http://[[", "ftp://studio"]
)
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(InvalidParams, match="server: must be like"):
        normalise_url(typed)


@pytest.mark.parametrize(
    ("handler", "error", "words"),
    [
        (refused(404, "not_found", "There is no such address. /docs lists those."), ServerProblem, "version 0.0.1"),
        (refused(405, "method_not_allowed", "Use GET here."), ServerProblem, f"this program is version {__version__}"),
        (refused(401, "unauthorized", "No account."), Unauthorized, "use --token"),
        (refused(429, "limit_reached", "50 a day."), LimitReached, "50 a day"),
        (refused(410, "gone", "The job 'x' was deleted."), Gone, "was deleted"),
        (refused(503, "queue_blocked", "Disk."), QueueBlocked, "Disk."),
        (refused(422, "invalid_params", "width: must be less.", field="width"), InvalidParams, "width: must be less."),
        (refused(418, "of_the_future", "What is this?"), UserError, "What is this?"),
        (lambda request: httpx.Response(502, text="<h1>Bad gateway</h1>"), ServerProblem, "status 502"),
        (
            lambda request: httpx.Response(200, text="<h1>Hello</h1>"),
            ServerProblem,
            "not like a diffusion-local server",
        ),
        (lambda request: httpx.Response(404, json={"detail": "Not Found"}), ServerProblem, "Is it a diffusion-local"),
    ],
)
def test_a_refusal_is_the_studios_own_error(handler: Handler, error: type[UserError], words: str) -> None:
    with pytest.raises(error, match=words):
        served(handler).get("/jobs")


def test_a_server_that_hangs_or_breaks_off() -> None:
    def fails(error: Exception) -> Handler:
        def handler(request: httpx.Request) -> httpx.Response:
            raise error

        return handler

    with pytest.raises(ServerProblem, match="did not respond in time"):
        served(fails(httpx.ReadTimeout("slow"))).get("/jobs")
    with pytest.raises(ServerProblem, match=r"closed the connection .* If it uses HTTPS, the address is https:"):
        list(served(fails(httpx.RemoteProtocolError("cut"))).stream_lines("/queue/export"))


@pytest.mark.parametrize("error", ["[SSL: WRONG_VERSION_NUMBER] wrong version number", "[SSL] record layer failure"])
def test_https_for_a_server_of_plain_http_is_told(error: str) -> None:
    problem = unreachable("https://studio:7860", httpx.ConnectError(error))
    assert str(problem) == "https://studio:7860 does not speak HTTPS. Use http://studio:7860, if that is the studio."


def test_the_token_is_shown_to_the_server_and_to_nobody_else() -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(302, headers={"Location": "http://evil.example/"}, json={})

    with pytest.raises(ServerProblem) as refusal:
        served(handler, "secret-token").get("/jobs")
    assert seen == ["Bearer secret-token"]  # the redirect was not followed
    assert "secret-token" not in refusal.value.message


def test_lines_are_cut_at_line_feeds_only() -> None:
    text = 'prompt\r\n"a\u2028b\x0bc"\nlast'
    assert list(served(lambda request: httpx.Response(200, text=text)).stream_lines("/x")) == [
        "prompt\r\n",
        '"a\u2028b\x0bc"\n',
        "last",
    ]


def test_nobody_there_is_told_in_one_line(run: Run) -> None:
    status, output, errors = run("jobs", "--server", f"http://127.0.0.1:{free_port()}")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert "Is it running?" in errors
