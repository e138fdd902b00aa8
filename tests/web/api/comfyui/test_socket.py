"""Events of ComfyUI's /ws: the caller's prompts from their start to their end, and who may listen."""

import asyncio
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fastapi import WebSocketDisconnect
from fastapi.testclient import TestClient
from PIL import Image as PIL
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession

from diffusion_local.actor import LOCAL, acting
from diffusion_local.compose import Services
from diffusion_local.web.api.dialects.comfyui import socket as module
from tests.support import claimed
from tests.web.api.comfyui.graphs import TXT2IMG
from tests.web.api.conftest import draw_next, fail_next
from tests.web.conftest import Site, client_of, drawn, services_of

URL = "ws://127.0.0.1:7860"
PASSWORD = "correct horse"


def until(socket: WebSocketTestSession, last: Callable[[dict[str, Any]], bool]) -> list[Any]:
    """Messages up to the one that is the ``last``; binary ones as bytes."""
    found: list[Any] = []
    while True:
        message = socket.receive()
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"])
        answer = message["bytes"] if message.get("bytes") else json.loads(message["text"])
        found.append(answer)
        if isinstance(answer, dict) and last(answer):
            return found


def over(told: dict[str, Any]) -> bool:
    """ComfyUI's own sign of the end, for which its clients wait."""
    return told["type"] == "executing" and told["data"]["node"] is None


def kinds(messages: list[Any]) -> list[str]:
    return [each["type"] if isinstance(each, dict) else "preview" for each in messages]


def webp() -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (32, 32), "red").save(file, "WEBP")
    return file.getvalue()


def submit(client: TestClient, client_id: str, **headers: str) -> str:
    answer = client.post("/prompt", json={"prompt": TXT2IMG, "client_id": client_id}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def test_a_prompt_from_its_start_to_its_end(client: TestClient, services: Services) -> None:
    with client.websocket_connect(URL + "/ws?clientId=c") as socket:
        [first] = until(socket, lambda result: result["type"] == "status")
        assert first["data"] == {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "c"}
        prompt_id = submit(client, "c")
        until(socket, lambda result: result["data"] == {"status": {"exec_info": {"queue_remaining": 1}}})
        job = claimed(services.jobs)
        started = until(socket, lambda result: result["type"] == "executing")
        assert kinds(started) == ["execution_start", "execution_cached", "executing"]
        assert {each["data"]["prompt_id"] for each in started} == {prompt_id}
        assert started[-1]["data"]["node"] == "3"
        services.files.save_preview(job.id, webp())
        services.jobs.report(job.claim, 2)
        [progress] = until(socket, lambda result: result["type"] == "progress")
        assert progress["data"] == {"value": 2, "max": 4, "prompt_id": prompt_id, "node": "3"}
        preview = socket.receive_bytes()
        assert struct.unpack(">II", preview[:8]) == (1, 1)
        assert PIL.open(io.BytesIO(preview[8:])).format == "JPEG"
        image = drawn(services, services.studio.job(job.id))
        ended = until(socket, lambda result: result["type"] == "execution_success")
        assert kinds(ended) == ["status", "executed", "executing", "execution_success"]
        shown = {"filename": f"{image.id}.png", "subfolder": "", "type": "output"}
        assert (ended[1]["data"]["node"], ended[1]["data"]["output"]) == ("9", {"images": [shown]})
        assert over(ended[2])


def test_a_prompt_that_was_never_seen_running_is_told_whole(client: TestClient, services: Services) -> None:
    with client.websocket_connect(URL + "/ws?clientId=c") as socket:
        until(socket, lambda received: received["type"] == "status")
        submit(client, "c")
        until(socket, lambda received: received["type"] == "status")
        draw_next(services)
        received = kinds(until(socket, over))
        assert [each for each in received if each != "status"] == [
            *("execution_start", "execution_cached", "executing", "executed", "executing")
        ]


def test_a_failure_is_told_and_then_the_end(client: TestClient, services: Services) -> None:
    with client.websocket_connect(URL + "/ws?clientId=c") as socket:
        until(socket, lambda received: received["type"] == "status")
        submit(client, "c")
        until(socket, lambda received: received["type"] == "status")
        fail_next(services)
        received = until(socket, over)
        [error] = [each["data"] for each in received if each["type"] == "execution_error"]
        assert (error["node_type"], error["exception_message"]) == ("KSampler", "it broke")


def test_a_client_hears_of_its_own_prompts(client: TestClient, services: Services) -> None:
    with client.websocket_connect(URL + "/comfyui/ws?clientId=mine") as socket:
        until(socket, lambda received: received["type"] == "status")
        submit(client, "another")
        draw_next(services)
        mine = submit(client, "mine")
        draw_next(services)
        received = until(socket, over)
        assert {each["data"]["prompt_id"] for each in received if each["type"] != "status"} == {mine}


def test_a_client_without_an_id_is_given_one(client: TestClient) -> None:
    with client.websocket_connect(URL + "/ws") as socket:
        assert socket.receive_json()["data"]["sid"]


def test_other_sites_cannot_listen(client: TestClient) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            client.websocket_connect(URL + "/ws", headers=headers),
        ):
            pass


def test_sockets_are_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_ACCOUNT", 1)
    with client.websocket_connect(URL + "/ws") as first:
        first.receive_json()
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            client.websocket_connect(URL + "/ws"),
        ):
            pass
    with client.websocket_connect(URL + "/ws") as again:
        assert again.receive_json()["type"] == "status"


def test_a_client_that_talks_is_sent_away(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RECEIVED", 3)
    with client.websocket_connect(URL + "/ws") as socket:
        socket.receive_json()
        for _ in range(3):
            socket.send_text("x" * 1000)
        with pytest.raises(WebSocketDisconnect):
            until(socket, over)


def test_a_consumer_that_does_not_read_is_dropped(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_SECONDS", 0.05)

    class Stuck:
        async def send_json(self, result: Any) -> None:
            await anyio.sleep_forever()

    assert not asyncio.run(module.send(Stuck(), {"type": "status"}))  # type: ignore[arg-type]


# -- with accounts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Services]:
    services = services_of(tmp_path_factory, share="shared")
    services.studio.accounts.add("root", PASSWORD)
    for name in ("ann", "bob"):
        services.studio.accounts.add(name, PASSWORD)
    return client_of(services, page=False), services


def token(services: Services, name: str) -> tuple[str, dict[str, str]]:
    """(id, headers) of a new token."""
    with acting(LOCAL):
        found, secret = services.studio.accounts.add_token(name, "test", ["submit", "control"])
    return found.id, {"Authorization": f"Bearer {secret}"}


def test_nobody_listens_without_a_token(guarded: tuple[TestClient, Services]) -> None:
    client, _ = guarded
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), client.websocket_connect(URL + "/ws"):
        pass


def test_another_account_hears_nothing(guarded: tuple[TestClient, Services]) -> None:
    """Even under the same client id, and where all is shared."""
    client, services = guarded
    _, ann = token(services, "ann")
    _, bob = token(services, "bob")
    with client.websocket_connect(URL + "/ws?clientId=c", headers=bob) as socket:
        until(socket, lambda received: received["type"] == "status")
        submit(client, "c", **ann)
        draw_next(services)
        own = submit(client, "c", **bob)
        draw_next(services)
        received = until(socket, over)
        assert {each["data"]["prompt_id"] for each in received if each["type"] != "status"} == {own}
        left = [each["data"]["status"]["exec_info"]["queue_remaining"] for each in received if each["type"] == "status"]
        assert set(left) <= {0, 1}


def test_a_socket_ends_with_its_token(guarded: tuple[TestClient, Services], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.1)
    client, services = guarded
    token_id, headers = token(services, "ann")
    with client.websocket_connect(URL + "/ws", headers=headers) as socket:
        socket.receive_json()
        with acting(LOCAL):
            services.studio.accounts.remove_token("ann", token_id)
        with pytest.raises(WebSocketDisconnect):
            until(socket, over)


# -- over the network --------------------------------------------------------------------------------------------------


def test_over_a_real_connection(site: Site) -> None:
    """Uvicorn's own WebSocket protocol, with the library that it needs."""
    client_library = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
    import httpx

    with client_library.connect(site.url.replace("http", "ws") + "/ws?clientId=real", max_size=None) as socket:
        assert json.loads(socket.recv(30))["data"]["sid"] == "real"
        httpx.post(site.url + "/prompt", json={"prompt": TXT2IMG, "client_id": "real"}).raise_for_status()
        reports: list[str] = []
        while "execution_success" not in reports:
            message = socket.recv(60)
            reports.append("preview" if isinstance(message, bytes) else json.loads(message)["type"])
        assert [each for each in reports if each not in ("status", "progress", "preview")] == [
            *("execution_start", "execution_cached", "executing", "executed", "executing", "execution_success")
        ]
