"""The Model Context Protocol over HTTP: the official client, and requests written by hand."""

import asyncio
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local.compose import Services
from tests.support import REPOSITORY
from tests.web.api.conftest import SMALL, Hands
from tests.web.conftest import Site, client_of, made, services_of

pytest.importorskip("mcp", reason="the SDK of the Model Context Protocol (mcp) is not installed")

HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
APPLE = {"name": "generate_image", "arguments": {"prompt": "a red apple", **SMALL}}
PASSWORD = "correct horse"


def rpc(method: str, params: Any = None, id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method} | ({} if params is None else {"params": params})


def ask(client: TestClient, method: str, params: Any = None, **headers: str) -> list[dict[str, Any]]:
    """The messages of an answer: notifications, then the response."""
    answer = client.post("/mcp", json=rpc(method, params), headers=HEADERS | headers)
    assert answer.status_code == 200, answer.text
    if answer.headers["Content-Type"].startswith("application/json"):
        return [answer.json()]
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: {")]


def call(client: TestClient, name: str, arguments: dict[str, Any], **headers: str) -> dict[str, Any]:
    result: dict[str, Any] = ask(client, "tools/call", {"name": name, "arguments": arguments}, **headers)[-1]["result"]
    return result


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_official_client_makes_pictures(site: Site, mode: str) -> None:
    """In the protocol of today and in the one that begins with a handshake."""
    from mcp import Client

    async def session() -> None:
        async with Client(site.url + "/mcp", mode=mode) as client:
            names = [each.name for each in (await client.list_tools()).tools]
            assert {"generate_image", "wait", "submit_list"} <= set(names)
            reported: list[tuple[float, float | None]] = []

            async def progress(done: float, total: float | None, words: str | None) -> None:
                reported.append((done, total))

            arguments = {"prompt": "a red apple", "count": 2, **SMALL}
            result = await client.call_tool("generate_image", arguments, progress_callback=progress)
            assert not result.is_error, result
            assert result.structured_content["finished"]
            assert json.loads(result.content[0].text) == result.structured_content
            assert reported[-1] == (2.0, 2.0)
            assert reported == sorted(reported)
            kinds = [each.type for each in result.content]
            assert kinds == ["text", "image", "image", "resource_link", "resource_link"]
            picture = PIL.open(io.BytesIO(base64.b64decode(result.content[1].data)))
            assert (picture.format, picture.size) == ("JPEG", (128, 128))
            whole = await client.read_resource(result.content[-1].uri)
            assert whole.contents[0].mime_type == "image/png"
            assert base64.b64decode(whole.contents[0].blob).startswith(b"\x89PNG")
            listed = await client.list_resources()
            assert result.content[-1].uri in [each.uri for each in listed.resources]
            url = result.structured_content["jobs"][0]["image"]["url"]
            assert url.startswith(site.url + "/images/")
            for name in ("list_models", "queue", "search_gallery"):  # the client checks answers against their schemas
                assert not (await client.call_tool(name, {})).is_error
            sent = await client.call_tool("submit_list", {"text": "a tree\na hill", **SMALL})
            waited = await client.call_tool("wait", {"batch_id": sent.structured_content["batch_id"]})
            assert [each["state"] for each in waited.structured_content["jobs"]] == ["done", "done"]
            refused = await client.call_tool("generate_image", {"prompt": "x", "width": 77})
            assert refused.is_error
            assert json.loads(refused.content[1].text)["error"]["field"] == "width"
            late = await client.call_tool("cancel", {"job_ids": [waited.structured_content["jobs"][0]["id"]]})
            assert late.is_error

    asyncio.run(asyncio.wait_for(session(), 120))


def test_over_standard_input_and_output(services: Services) -> None:
    """By the command, against a home on this machine; nobody works there, so nothing is waited for."""
    from mcp import Client, StdioServerParameters

    image = made(services)
    command = ["-m", "diffusion_local", "mcp", "--home", str(services.settings.home)]
    environ = {"PYTHONPATH": str(REPOSITORY), "DIFFUSION_LOCAL_ENGINE": "fake"}
    parameters = StdioServerParameters(command=sys.executable, args=command, env=environ)

    async def session() -> None:
        async with Client(parameters) as client:
            result = await client.call_tool("generate_image", {"prompt": "a pear", "seconds": 0, **SMALL})
            assert not result.structured_content["finished"]
            found = await client.call_tool("search_gallery", {"picture": "preview"})
            [text] = [each.text for each in found.content[1:] if each.type == "text"]
            assert Path(text.partition(": ")[2]).read_bytes().startswith(b"\x89PNG")
            cancelled = await client.call_tool("cancel", {"job_ids": result.structured_content["job_ids"]})
            assert cancelled.structured_content["job_ids"] == result.structured_content["job_ids"]

    asyncio.run(asyncio.wait_for(session(), 120))
    assert image.id in [each.id for each in services.studio.gallery()]


@pytest.mark.slow
def test_over_standard_input_for_a_studio_elsewhere(site: Site, tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters

    command = ["-m", "diffusion_local", "mcp", "--server", site.url]
    environ = {"PYTHONPATH": str(REPOSITORY), "DIFFUSION_LOCAL_HOME": str(tmp_path / "none")}
    parameters = StdioServerParameters(command=sys.executable, args=command, env=environ)

    async def session() -> None:
        async with Client(parameters) as client:
            result = await client.call_tool("generate_image", {"prompt": "a pear", **SMALL})
            assert not result.is_error, result
            assert result.structured_content["finished"]
            assert [each.type for each in result.content] == ["text", "image", "resource_link"]
            assert result.structured_content["jobs"][0]["image"]["url"].startswith(site.url)
            image_id = result.structured_content["jobs"][0]["image"]["id"]
            edited = await client.call_tool(
                "edit_image", {"prompt": "a plum", "image": image_id, "strength": 0.5, **SMALL}
            )
            assert edited.structured_content["jobs"][0]["params"]["kind"] == "img2img"
            for name in ("list_models", "queue", "search_gallery"):
                assert not (await client.call_tool(name, {})).is_error
            assert not (tmp_path / "none").exists()

    asyncio.run(asyncio.wait_for(session(), 120))


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_the_handshake_and_versions(client: TestClient) -> None:
    asked = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    result = ask(client, "initialize", asked)[-1]["result"]
    assert (result["protocolVersion"], result["serverInfo"]["name"]) == ("2025-06-18", "diffusion-local")
    assert {"tools", "resources"} <= set(result["capabilities"])
    later = ask(client, "initialize", asked | {"protocolVersion": "2099-01-01"})[-1]["result"]
    assert later["protocolVersion"] < "2099"
    assert (
        client.post("/mcp", json=rpc("tools/list"), headers=HEADERS | {"MCP-Protocol-Version": "x"}).status_code == 400
    )


def test_a_request_needs_no_session(client: TestClient, drawing: Hands) -> None:
    """So it works after a restart of the server, and nobody can fill the memory with sessions."""
    assert len(ask(client, "tools/list")[-1]["result"]["tools"]) == 11
    result = call(client, **APPLE)
    assert result["structuredContent"]["finished"]
    assert client.get("/mcp", headers=HEADERS).status_code == 405
    assert client.delete("/mcp", headers=HEADERS).status_code == 405


def test_progress_is_sent_while_a_call_waits(client: TestClient, drawing: Hands) -> None:
    messages = ask(client, "tools/call", APPLE | {"_meta": {"progressToken": "t"}})
    assert [each["params"]["progressToken"] for each in messages[:-1]] == ["t"]
    assert messages[0]["method"] == "notifications/progress"


def test_a_tool_that_is_not_there(client: TestClient) -> None:
    assert ask(client, "tools/call", {"name": "burn", "arguments": {}})[-1]["error"]["message"].startswith(
        "There is no"
    )
    assert "error" in ask(client, "resources/read", {"uri": "file:///etc/passwd"})[-1]
    assert "error" in ask(client, "resources/read", {"uri": "diffusion-local://images/../app.db"})[-1]
    assert "error" in ask(client, "resources/read", {"uri": f"diffusion-local://images/{'0' * 26}"})[-1]


def test_a_fault_of_ours_says_nothing_of_itself(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion_local.studio import Studio

    def broken(*_: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(Studio, "snapshot", broken)
    result = call(client, "queue", {})
    assert result["isError"]
    assert "secret" not in json.dumps(result)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": 7}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "queue", "arguments": [1]}}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "no/such"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\xff\xfe",
    ],
)
def test_a_message_that_is_none_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/mcp", content=body, headers=HEADERS)
    assert answer.status_code < 500
    assert answer.status_code >= 400 or '"error"' in answer.text


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    headers = HEADERS | {"Content-Length": str(10**10)}
    assert client.post("/mcp", content=b"", headers=headers).status_code in (400, 413)


def test_other_sites_cannot_call_it(client: TestClient) -> None:
    body = rpc("tools/list")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/mcp", json=body, headers=HEADERS | headers).status_code == 403
    rebound = client.post("/mcp", json=body, headers=HEADERS | {"Host": "evil.example"})
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (400, "host_not_allowed")


# -- with accounts -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> tuple[TestClient, Services, dict[str, dict[str, str]]]:
    """(client, house, headers of tokens by name)."""
    services = services_of(tmp_path_factory, share="own")
    services.studio.accounts.add("root", PASSWORD)
    for name, role in (("ann", "user"), ("bob", "user"), ("eve", "viewer")):
        services.studio.accounts.add(name, PASSWORD, role)
    scopes = {"ann": ["submit", "control"], "bob": ["submit"], "eve": []}
    tokens = {name: services.studio.accounts.add_token(name, "test", of)[1] for name, of in scopes.items()}
    return (
        client_of(services, page=False),
        services,
        {name: {"Authorization": f"Bearer {each}"} for name, each in tokens.items()},
    )


def test_nobody_calls_without_a_token(guarded: Any) -> None:
    client, _, _ = guarded
    assert client.post("/mcp", json=rpc("tools/list"), headers=HEADERS).status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert client.post("/mcp", json=rpc("tools/list"), headers=HEADERS | wrong).status_code == 401


def test_a_token_sees_and_does_what_its_scopes_allow(guarded: Any) -> None:
    client, services, headers = guarded
    image = made(services)  # belongs to this machine
    names = {
        who: {each["name"] for each in ask(client, "tools/list", **headers[who])[-1]["result"]["tools"]}
        for who in headers
    }
    assert names["ann"] - names["bob"] == {"cancel"}
    assert names["bob"] - names["eve"] == {"generate_image", "edit_image", "upscale", "submit_list", "help_prompt"}
    arguments = {"prompt": "a secret apple", "seconds": 0, **SMALL}
    refused = call(client, "generate_image", arguments, **headers["eve"])
    assert refused["isError"]
    assert "may not" in refused["content"][0]["text"]
    made_by_ann = call(client, "generate_image", arguments, **headers["ann"])["structuredContent"]
    assert services.studio.job(made_by_ann["job_ids"][0]).owner == "ann"
    for name, value in (
        ("get_job", {"job_id": made_by_ann["job_ids"][0]}),
        ("wait", {"job_ids": made_by_ann["job_ids"], "seconds": 0}),
        ("wait", {"batch_id": made_by_ann["batch_id"], "seconds": 0}),
    ):
        assert call(client, name, value, **headers["bob"])["isError"]
        assert not call(client, name, value, **headers["ann"]).get("isError")
    assert "secret" not in json.dumps(call(client, "queue", {}, **headers["bob"]))
    uri = f"diffusion-local://images/{image.id}"
    assert "error" in ask(client, "resources/read", {"uri": uri}, **headers["ann"])[-1]
    assert ask(client, "resources/list", **headers["ann"])[-1]["result"]["resources"] == []
