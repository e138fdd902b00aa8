"""Limits of requests: every route of the application has one, whatever framework declares it."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount

from diffusion_local.actor import NOBODY, SCOPES, Actor, Role, Scope, acting
from diffusion_local.compose import Services
from diffusion_local.settings import Settings
from diffusion_local.web.api import request_limits
from tests.web.conftest import client_of, services_of

SETTINGS = Settings.load(environ={}, engine="fake")
BODIES = {"POST", "PUT", "PATCH", "DELETE"}


#: Tried with one route of each limit.
ODD_LENGTHS: tuple[tuple[dict[str, str], int], ...] = (
    ({"Content-Length": "1" * 30}, 413),
    ({"Content-Length": "-1"}, 400),
    ({"Content-Length": "²"}, 400),
    ({"Transfer-Encoding": "chunked", "Content-Length": "1"}, 411),
)


def routes(found: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """(path, methods) of every route, those of mounted applications included."""
    for route in iter_route_contexts(found):
        if isinstance(getattr(route, "original_route", route), Mount):
            mount = getattr(route, "original_route", route)
            yield from routes(mount.routes, prefix + mount.path)
        else:
            yield prefix + str(route.path), set(route.methods or ())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return client_of(services_of(tmp_path_factory, writes_per_second=0))


def test_every_route_that_takes_a_body_refuses_one_beyond_its_limit(shared: TestClient) -> None:
    limit_of = request_limits.BodyLimit(shared.app, SETTINGS).limit_of
    tried, known = set(), set()
    for path, methods in routes(shared.app.routes):  # type: ignore[attr-defined]
        for method in sorted(methods & BODIES):
            target = path
            for name in ("api_name", "event_id", "job_id", "path:path", "id"):
                target = target.replace(f"{{{name}}}", "x")
            limit = limit_of(target)
            for headers, status in (
                ({"Content-Length": str(limit + 1)}, 413),
                ({"Transfer-Encoding": "chunked"}, 411),
                *(() if limit in known else ODD_LENGTHS),
            ):
                sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
                answer = shared.request(method, target, content=b"x", headers=sent)
                assert answer.status_code == status, (method, target, headers, answer.text)
            tried.add(path)
            known.add(limit)
    assert {"/look", "/login", "/api/v1/jobs", "/predictions", "/gradio_api/queue/join", "/gradio_api/upload"} <= tried
    assert len(tried) > 80


def test_the_routes_with_a_larger_limit_exist(shared: TestClient) -> None:
    known = {path for path, _ in routes(shared.app.routes)}  # type: ignore[attr-defined]
    for path in request_limits.larger(SETTINGS):  # type: ignore[attr-defined]
        parts = path.split("/")
        assert {path, *("/".join([*parts[:-1], name]) for name in ("{api_name}", "{prediction_id}"))} & known, path


@pytest.mark.parametrize("path", ["/nowhere", "/gradio_api/nowhere", "/gradio_api/run/job", "/look", "/"])
def test_unknown_paths_and_short_ones_have_the_common_limit(shared: TestClient, path: str) -> None:
    assert shared.post(path, content=b"x" * (request_limits.MOST_BYTES + 1)).status_code == 413
    assert shared.post(path, content=iter([b"x"])).status_code == 411


def test_a_body_longer_than_it_says_is_cut(services: Services) -> None:
    """Servers other than ours may pass on more than the header announces."""
    client = client_of(services, page=False)
    body = b'{"seen": "' + b"x" * request_limits.MOST_BYTES + b'"}'
    answer = client.post("/look", content=body, headers={"Content-Length": "10"})
    assert answer.status_code == 413


def test_bodies_share_two_pools_and_no_account_keeps_out_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "larger", lambda _: {"/large": 4_000_000})
    monkeypatch.setattr(request_limits, "SMALL_BODIES", 400_000)
    answers: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = scope["client"]
        try:
            while (await receive())["more_body"]:
                await turn[name].wait()
        except HTTPException as refused:
            answers.append(f"{name} {refused.status_code}")
            return
        answers.append(f"{name} read")

    async def sent(limit: request_limits.BodyLimit, name: str, path: str, *sizes: int) -> None:
        pieces = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
        pieces[-1]["more_body"] = False
        headers = [(b"content-length", str(sum(sizes)).encode()), (b"content-type", b"multipart/form-data")]
        scope = {"type": "http", "path": path, "headers": headers, "client": name}

        async def receive() -> Any:
            return pieces.pop(0)

        with acting(Actor("bob" if name == "other" else "ann")):
            await limit(scope, receive, send=None)  # type: ignore[arg-type]

    async def play() -> None:
        turn.update({name: asyncio.Event() for name in ("first", "second", "small", "other")})
        turn["second"].set()
        turn["other"].set()
        limit = request_limits.BodyLimit(app, SETTINGS)
        first = asyncio.create_task(sent(limit, "first", "/large", 3_000_000, 1_000_000))
        await asyncio.sleep(0)
        await sent(limit, "second", "/large", 900_000, 1_000_000)  # both together are more than the largest may be
        await sent(limit, "small", "/look", 100_000)
        await sent(limit, "other", "/large", 900_000, 1_000_000)
        turn["first"].set()
        await first
        await sent(limit, "second", "/large", 900_000, 1_000_000)

    turn: dict[str, asyncio.Event] = {}
    with ThreadPoolExecutor(1) as other:  # browser tests leave an event loop running in this thread
        other.submit(lambda: asyncio.run(play())).result()
    assert answers == ["second 503", "small read", "other read", "first read", "second read"]


def test_a_header_is_bounded(shared: TestClient) -> None:
    many = [(f"X-{number}", "x") for number in range(request_limits.MOST_HEADERS + 1)]
    for headers in (many, [("X-Long", "x" * request_limits.MOST_HEADER_BYTES)]):
        answer = shared.get("/healthz", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (431, "request_header_fields_too_large")


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize(
    "path",
    [
        "/look",
        "/api/v1/jobs",
        "/gradio_api/run/job",
        "/gradio_api/queue/join",
        "/v1/images/generations",
        "/sdapi/v1/txt2img",
        "/predictions",
    ],
)
def test_deep_json_is_refused(shared: TestClient, path: str, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"data":', "}")):
        body = opening * depth + "1" + closing * depth
        answer = shared.post(path, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text
        answer = shared.post(path, content=f'{{"asked": {body}}}', headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("path", ["/login", "/api/v1/sources", "/api/v1/jobs", "/api/v1/lists", "/gradio_api/upload"])
def test_a_form_with_thousands_of_parts_is_refused(shared: TestClient, path: str) -> None:
    part = '--b\r\nContent-Disposition: form-data; name="f{0}"{1}\r\n\r\nx\r\n'
    for file in ("", '; filename="f"'):
        body = "".join(part.format(number, file) for number in range(5000)) + "--b--\r\n"
        answer = shared.post(path, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
@pytest.mark.parametrize(
    ("text", "outside"),
    [
        (b'{"a": [1, 2], "b": "x[,]y"}', 14),
        (rb'["a\"b[[[", "\\", "c"]', 6),
        (b"[[],[],[]]", 10),
        (b"", 0),
    ],
)
def test_the_structure_of_json_is_counted_as_it_arrives(text: bytes, outside: int, size: int) -> None:
    structure = request_limits.Structure()
    for start in range(0, len(text), size):
        structure.add(text[start : start + size])
    assert structure.bytes == outside


@pytest.mark.parametrize("path", ["/sdapi/v1/png-info", "/sdapi/v1/img2img", "/api/v1/jobs", "/predictions", "/look"])
@pytest.mark.parametrize("piece", [b"[],", b"1,", b'"",'])
def test_json_of_many_small_values_is_refused_before_it_is_parsed(shared: TestClient, path: str, piece: bytes) -> None:
    body = b'{"image": "", "x": [' + piece * (900_000 // len(piece)) + b"1]}"
    answer = shared.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "outside of its strings" in answer.text) == (413, True)


def test_only_those_who_may_submit_or_work_send_large_bodies() -> None:
    worker = Actor("ann", Role.ADMIN, frozenset({Scope.READ, Scope.WORKER}), source="token")
    assert request_limits.allowed_to(worker) > 100 * request_limits.MOST_BYTES
    viewer = Actor("vic", Role.VIEWER, SCOPES[Role.VIEWER])
    user = Actor("ann", Role.USER, SCOPES[Role.USER])
    assert request_limits.allowed_to(viewer) == request_limits.MOST_BYTES
    assert request_limits.allowed_to(NOBODY) == request_limits.STRANGERS_BYTES < request_limits.MOST_BYTES
    assert request_limits.allowed_to(user) > 100 * request_limits.MOST_BYTES
