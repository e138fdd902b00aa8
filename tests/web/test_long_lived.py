"""Requests that last, of every kind: they end with the right to make them, and event streams are never silent."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.web.api.watch import Watch
from diffusion_local.web.app import create_app
from diffusion_local.web.authentication import STILL_KEY, cookie_name
from diffusion_local.web.long_lived import LongLived
from tests.support import eventually
from tests.web.conftest import free_port, services_of

SMALL = {"width": 128, "height": 128, "steps": 4}
HEARTBEAT = 0.4
RECHECK = 0.2
PASSWORD = "correct horse"
STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Studio:
    """A server with the account ann, and a job of hers that waits for a worker that never comes."""

    url: str
    services: Services
    job: str
    batch: str
    watch: Watch
    patience: float = 60.0  # seconds

    def waiting(self) -> int:
        """How many callers wait for news."""
        return sum(len(line.waiting) for line in list(self.watch._lines.values()))

    def token(self, scopes: tuple[str, ...] = ("submit", "control")) -> tuple[str, dict[str, str]]:
        """(id, headers) of a new token of ann."""
        token, secret = self.services.studio.accounts.add_token("ann", "test", list(scopes))
        return token.id, {"Authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    services = services_of(tmp_path_factory)
    with acting(LOCAL):
        services.studio.accounts.add("root", PASSWORD)
        services.studio.accounts.add("ann", PASSWORD)
        receipt = services.studio.submit("a hill", **SMALL)
    port = free_port()
    app = create_app(services.studio, services.settings, HEARTBEAT, RECHECK)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, 30)
    yield Studio(f"http://127.0.0.1:{port}", services, receipt.job_ids[0], receipt.batch_id, app.state.watch)
    server.should_exit = True
    thread.join(10)


Open = Callable[[Studio, dict[str, str]], contextlib.AbstractContextManager[httpx.Response]]


def get(path: str, **more: str) -> Open:
    return lambda studio, headers: httpx.stream(
        "GET",
        studio.url + path.format(job=studio.job, batch=studio.batch),
        headers=headers | more,
        timeout=studio.patience,
    )


def post(path: str, body: Any, **more: str) -> Open:
    return lambda studio, headers: httpx.stream(
        "POST", studio.url + path, json=body, headers=headers | more, timeout=studio.patience
    )


def called(name: str, *values: Any) -> Open:
    def begin(studio: Studio, headers: dict[str, str]) -> contextlib.AbstractContextManager[httpx.Response]:
        data = [value.format(job=studio.job) if isinstance(value, str) else value for value in values]
        url = f"{studio.url}/gradio_api/call/{name}"
        event = httpx.post(url, json={"data": data}, headers=headers).json()["event_id"]
        return httpx.stream("GET", f"{url}/{event}", headers=headers, timeout=studio.patience)

    return begin


@contextlib.contextmanager
def queued(studio: Studio, headers: dict[str, str]) -> Iterator[httpx.Response]:
    config = httpx.get(f"{studio.url}/config", headers=headers).json()
    [wait] = [each["id"] for each in config["dependencies"] if each["api_name"] == "wait"]
    body = {"fn_index": wait, "data": [studio.job, 600], "session_hash": "anns-tab"}
    assert httpx.post(f"{studio.url}/gradio_api/queue/join", json=body, headers=headers).status_code == 200
    url = f"{studio.url}/gradio_api/queue/data"
    with httpx.stream(
        "GET", url, params={"session_hash": "anns-tab"}, headers=headers, timeout=studio.patience
    ) as answer:
        yield answer


JOB = {"prompt": "a tree", **SMALL}
STREAMS: dict[str, Open] = {
    "queue": get("/api/v1/queue/stream"),
    "queue history": get("/api/v1/queue/events", **STREAM),
    "job": get("/api/v1/jobs/{job}/stream"),
    "batch": get("/api/v1/batches/{batch}/stream"),
    "gradio watch": called("watch", "{job}", "", 600),
    "gradio wait": called("wait", "{job}", 600),
    "gradio queue": queued,
}
POLLS: dict[str, Open] = {
    "submit": post("/api/v1/jobs", JOB, Prefer="wait=600"),
    "openai": post("/v1/images/generations", {"prompt": "a tree", "size": "128x128"}),
    "a1111": post("/sdapi/v1/txt2img", JOB),
    "cog": post("/predictions", {"input": JOB}, Prefer="wait=60"),
    "gradio run wait": lambda studio, headers: post("/gradio_api/run/wait", {"data": [studio.job, 600]})(
        studio, headers
    ),
    "gradio run generate": post("/gradio_api/run/generate", {"data": ["a tree"]}),
}


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """One line in the log at most, and no traceback."""
    caplog.set_level("INFO", logger="diffusion_local")
    caplog.set_level("INFO", logger="uvicorn")
    yield
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    records = [each for each in caplog.records if each.name != "httpx2"]  # a client that an earlier test left behind
    assert len(records) <= 1, caplog.text


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run it beside; call what comes back for its result."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(30)
        assert found, "it does not end"
        return found[0]

    return result


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_ends_with_its_token(studio: Studio, kind: str, quiet: None) -> None:
    token, headers = studio.token()
    with STREAMS[kind](studio, headers) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        if kind != "gradio wait":  # whose first piece takes a while
            assert next(pieces)
        studio.services.studio.accounts.remove_token("ann", token)
        result = in_thread(lambda: list(pieces))
        result()


@pytest.mark.parametrize("kind", POLLS)
def test_a_long_poll_ends_with_its_token(studio: Studio, kind: str, quiet: None) -> None:
    eventually(lambda: not studio.waiting())
    token, headers = studio.token()

    def ask() -> tuple[int, str]:
        with POLLS[kind](studio, headers) as answer:
            return answer.status_code, answer.read().decode()

    result = in_thread(ask)
    eventually(studio.waiting)
    studio.services.studio.accounts.remove_token("ann", token)
    status, text = result()
    assert (status, "unauthorized" in text) == (401, True)
    eventually(lambda: not studio.waiting())


@pytest.mark.parametrize("kind", [*POLLS, *STREAMS])
def test_who_hangs_up_is_not_waited_for(studio: Studio, kind: str, quiet: None) -> None:
    eventually(lambda: not studio.waiting())
    _, headers = studio.token()
    seen = threading.Event()
    look = in_thread(lambda: eventually(lambda: seen.is_set() or studio.waiting()))
    with (
        contextlib.suppress(httpx.ReadTimeout),
        (POLLS | STREAMS)[kind](replace(studio, patience=2.0), headers) as answer,
    ):
        for _ in answer.iter_raw():
            if studio.waiting():
                seen.set()
                break
    assert look()
    eventually(lambda: not studio.waiting())


def test_a_slow_upload_ends_with_its_token(studio: Studio) -> None:
    token, headers = studio.token()
    secret = headers["Authorization"]
    host, port = studio.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = (
            f"POST /api/v1/sources HTTP/1.1\r\nHost: localhost\r\nAuthorization: {secret}\r\nContent-Length: 99\r\n\r\n"
        )
        connection.sendall(head.encode() + b"x")
        studio.services.studio.accounts.remove_token("ann", token)
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("end", ["session", "account", "role"])
def test_a_stream_ends_with_what_let_it_in(tmp_path_factory: pytest.TempPathFactory, studio: Studio, end: str) -> None:
    accounts = studio.services.studio.accounts
    name = f"bob.{end}"
    accounts.add(name, PASSWORD)
    headers = {"Authorization": f"Bearer {accounts.add_token(name, 'test', [])[1]}"}
    if end == "session":
        cookie = accounts.sign_in(name, PASSWORD, "127.0.0.1", "test")
        headers = {"Cookie": f"{cookie_name(studio.services.settings)}={cookie}"}
    ends = {
        "session": lambda: accounts.sign_out(name),
        "account": lambda: accounts.remove(name),
        "role": lambda: accounts.set_role(name, "viewer"),
    }
    with get("/api/v1/queue/stream")(studio, headers) as answer:
        pieces = answer.iter_raw()
        for _ in range(4):  # it goes on while nothing changes
            assert next(pieces)
        ends[end]()
        in_thread(lambda: list(pieces))()


def test_a_stream_without_news_of_its_own_has_heartbeats_while_there_is_news_elsewhere(studio: Studio) -> None:
    _, headers = studio.token()
    over = threading.Event()

    def busy() -> None:
        with acting(LOCAL):
            while not over.wait(0.05):
                ids = studio.services.studio.submit("elsewhere", **SMALL).job_ids
                studio.services.studio.queue.cancel(ids)

    elsewhere = threading.Thread(target=busy)
    elsewhere.start()
    try:
        with get("/api/v1/jobs/{job}/stream")(studio, headers) as answer:
            lines = answer.iter_lines()
            for _ in range(5):
                assert next(line for line in lines if line.startswith(":")) == ": nothing new"
    finally:
        over.set()
        elsewhere.join()


# -- the middleware alone ----------------------------------------------------------------------------------------------


def play(
    app: Any, path: str = "/x", until: Callable[[list[Any]], bool] = lambda sent: False, still: bool = True
) -> list[Any]:
    """What is sent; the caller loses its right once ``until`` is so."""
    sent: list[Any] = []

    async def is_still() -> bool:
        return still and not until(sent)

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        with anyio.fail_after(30):
            scope = {"type": "http", "method": "GET", "path": path, "headers": [], STILL_KEY: is_still}
            await LongLived(app, 0.05, 0.02)(scope, None, send)  # type: ignore[arg-type]

    thread = threading.Thread(target=lambda: anyio.run(run))  # browser tests leave an event loop running in this one
    thread.start()
    thread.join()
    return sent


def answering(media_type: str, *bodies: bytes) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", media_type.encode())]})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await anyio.sleep_forever()

    return app


def bodies(sent: list[Any]) -> list[bytes]:
    return [each["body"] for each in sent if each["type"] == "http.response.body"]


def test_a_download_that_is_cut_off_does_not_look_whole() -> None:
    sent = play(answering("application/zip", b"PK"), still=False)
    assert bodies(sent) == [b"PK"]
    assert sent[-1]["more_body"]


def test_an_application_that_answers_its_cancellation_is_not_heard() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b'{"error": null}'})

    start, body = play(app, still=False)
    assert start["status"] == 401
    assert json.loads(body["body"])["error"]["code"] == "unauthorized"


def test_an_event_stream_ends_properly() -> None:
    sent = play(answering("text/event-stream; charset=utf-8", b"data: 1\n\n"), still=False)
    assert bodies(sent)[0] == b"data: 1\n\n"
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_no_comment_comes_within_an_event_nor_to_clients_of_gradio() -> None:
    passed = iter(range(20))

    def later(_: list[Any]) -> bool:
        return next(passed, None) is None

    assert bodies(play(answering("text/event-stream", b"data: 1\n"), until=later)) == [b"data: 1\n", b""]
    passed = iter(range(20))
    sent = play(answering("text/event-stream", b"data: 1\n\n"), "/gradio_api/queue/data", later)
    assert bodies(sent) == [b"data: 1\n\n", b""]
    sent = play(answering("text/event-stream", b"data: 1\n\n"), until=lambda sent: len(bodies(sent)) > 3)
    assert bodies(sent)[:4] == [b"data: 1\n\n", *[b": nothing new\n\n"] * 3]
