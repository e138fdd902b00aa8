"""The tables of routes against the Gradio that is installed: nothing is reachable that was not decided on."""

import re
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from diffusion_local.web.api.gradio.allowed_routes import ALLOWED, REMOVED_ROUTES, find

PAGE = True  # of the client

SAMPLES = {"component_id": "1", "environment": "client", "size": "16"}
Route = tuple[str, str]


def walked(routes: Any) -> Iterator[Route]:
    """(method, path) of every route, also of included routers and mounted applications."""
    for route in routes:
        if hasattr(route, "methods"):
            yield from ((method, route.path) for method in route.methods)
            continue
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        assert inner is not None, f"a route of an unknown kind: {route!r}"
        prefix = getattr(route, "path", "")
        yield from ((method, prefix + path) for method, path in walked(inner.routes))


def installed() -> set[Route]:
    """What the mounted Gradio has, from Gradio itself: as our own page mounts it."""
    with gr.Blocks() as blocks:
        gr.Textbox()
    app = FastAPI()
    own = len(app.routes)
    gr.mount_gradio_app(app, blocks, path="/", run_history=False, ssr_mode=False, mcp_server=False)
    return set(walked(app.routes[own:]))


allowed = {(each.method, each.path) for each in ALLOWED}
refused = {route for routes in REMOVED_ROUTES.values() for route in routes}


def test_the_walk_sees_routes_of_both_kinds() -> None:
    assert {("GET", "/config"), ("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/queue/data")} <= installed()


def test_every_route_of_the_installed_gradio_is_allowed_or_refused() -> None:
    undecided = installed() - allowed - refused
    assert not undecided, "put each into ALLOWED or REFUSED of web/api/gradio/allowed_routes.py"


def test_the_tables_name_only_what_there_is_and_each_once() -> None:
    assert (allowed | refused) - installed() == set()
    assert allowed & refused == set()
    assert len(refused) == sum(map(len, REMOVED_ROUTES.values()))


def sample(path: str) -> str:
    return re.sub(r"{(\w+)(:path)?}", lambda found: SAMPLES.get(found[1], "x"), path)


def scope(method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}


@pytest.mark.parametrize("route", sorted(allowed))
def test_an_allowed_route_is_found(route: Route) -> None:
    found = find(scope(route[0], sample(route[1])))
    assert found is not None
    assert (found[0].method, found[0].path) == route


@pytest.mark.parametrize("route", sorted(refused))
def test_a_refused_route_is_not_found(route: Route) -> None:
    assert find(scope(route[0], sample(route[1]))) is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/config"),
        ("DELETE", "/gradio_api/run/submit"),
        ("GET", "/gradio_api/run/submit"),
        ("HEAD", "/gradio_api/info"),
        ("OPTIONS", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/new_in_the_next_release"),
        ("POST", "/gradio_api/run/submit/more"),
        ("GET", "//config"),
        ("GET", "/gradio_api//info"),
        ("GET", "/Config"),
        ("GET", "/config/x"),
    ],
)
def test_what_is_in_no_table_is_not_found(method: str, path: str) -> None:
    assert find(scope(method, path)) is None


#: A server without Gradio behind it answers these itself.
OWN = {("GET", "/openapi.json"), ("HEAD", "/openapi.json"), ("POST", "/login"), ("POST", "/gradio_api/upload")}


@pytest.mark.parametrize("route", sorted(refused - OWN))
def test_a_refused_route_answers_404(client: TestClient, route: Route) -> None:
    answer = client.request(route[0], sample(route[1]), json={} if route[0] == "POST" else None, follow_redirects=False)
    assert answer.status_code in (404, 405), answer.text
    assert "detail" not in answer.text or "error" in answer.text


def test_a_websocket_is_refused(client: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/join"):
        pass
