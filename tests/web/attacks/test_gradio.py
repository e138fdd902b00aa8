"""Attacks by Gradio's routes, over a real server with accounts: files of the machine, uploads and results of others."""

import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from gradio import processing_utils
from gradio_client import Client, handle_file
from PIL import Image as PIL

from diffusion_local.web.api.gradio.call_checks import session_key
from diffusion_local.web.api.gradio.uploads import MAX_FILES
from tests.support import eventually
from tests.web.attacks.conftest import Victim
from tests.web.conftest import free_port

META = {"_type": "gradio.FileData"}
MARK = "root:"  # what /etc/passwd begins with


@pytest.fixture(scope="module")
def server(victim: Victim) -> Iterator[str]:
    import uvicorn

    from diffusion_local.web.app import create_app

    port = free_port()
    app = create_app(victim.services.studio, victim.services.settings, services=victim.services)
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    eventually(lambda: running.started, 30)
    (victim.services.settings.home / "config.toml").write_text("# secret-of-the-config\n")
    (victim.services.settings.home / ".secret").write_text("secret-of-the-dotfile")
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def callers(server: str, victim: Victim) -> Iterator[Callable[[str], httpx.Client]]:
    known: dict[str, httpx.Client] = {}

    def caller(who: str) -> httpx.Client:
        return known.setdefault(who, httpx.Client(base_url=server, headers=victim.headers(who), timeout=30))

    yield caller
    for each in known.values():
        each.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Gradio copies from the disk or fetches from an address."""
    found: list[str] = []

    async def fetched(url: str, *_: Any, **__: Any) -> str:
        found.append(url)
        raise RuntimeError(url)

    def copied(path: Any, *_: Any, **__: Any) -> str:
        found.append(str(path))
        raise RuntimeError(path)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetched)
    monkeypatch.setattr(processing_utils, "save_url_to_cache", copied)
    monkeypatch.setattr(processing_utils, "save_file_to_cache", copied)
    monkeypatch.setattr(processing_utils, "hash_file", copied)
    return found


def picture(side: int = 64) -> bytes:
    file = io.BytesIO()
    PIL.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(file, "PNG")
    return file.getvalue()


def sent(client: httpx.Client, data: bytes, name: str = "apple.png") -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, data, "image/png")})
    assert answer.status_code == 200, answer.text
    [path] = answer.json()
    return str(path)


def kept(victim: Victim) -> set[str]:
    return {str(each) for each in (victim.services.settings.home / "tmp").rglob("*")}


def by_run(client: httpx.Client, name: str, parameter: str, value: Any) -> httpx.Response:
    return client.post(f"/gradio_api/run/{name}", json={"data": [value]})


def by_call(client: httpx.Client, name: str, parameter: str, value: Any) -> httpx.Response:
    return client.post(f"/gradio_api/call/{name}", json={"data": [value]})


def by_call_v2(client: httpx.Client, name: str, parameter: str, value: Any) -> httpx.Response:
    return client.post(f"/gradio_api/call/v2/{name}", json={parameter: value})


def by_join(client: httpx.Client, name: str, parameter: str, value: Any) -> httpx.Response:
    call = {"data": [value], "fn_index": index_of(str(client.base_url), client, name), "session_hash": "evil"}
    return client.post("/gradio_api/queue/join", json=call)


_indices: dict[tuple[str, str], int] = {}


def index_of(server: str, client: httpx.Client, name: str) -> int:
    """The number of an endpoint, which every caller's page names equally."""
    if (server, name) not in _indices:
        for each in client.get("/config").json()["dependencies"]:
            _indices[server, each["api_name"]] = each["id"]
    return _indices[server, name]


DOORS = (by_run, by_call, by_call_v2, by_join)
ENDPOINTS = (("gallery", "limit"), ("add_source", "picture"))


def references(home: Path, victims_upload: str) -> dict[str, Any]:
    """File references that must not be honoured, by what they try."""
    os.mkfifo(home / "fifo")
    (home / "link.png").symlink_to("/etc/passwd")
    passwd = {"path": "/etc/passwd", "meta": META}
    return {
        "a file of the system": passwd,
        "the database": {"path": str(home / "app.db"), "meta": META},
        "the settings": {"path": str(home / "config.toml"), "meta": META},
        "a dot file": {"path": str(home / ".secret"), "meta": META},
        "the environment": {"path": "/proc/self/environ", "meta": META},
        "an endless device": {"path": "/dev/zero", "meta": META},
        "a pipe": {"path": str(home / "fifo"), "meta": META},
        "a symlink": {"path": str(home / "link.png"), "meta": META},
        "out of the uploads": {"path": "uploads/../../app.db", "meta": META},
        "below an upload": {"path": f"{victims_upload}/../../../app.db", "meta": META},
        "a folder": {"path": "uploads", "meta": META},
        "an upload's place on the disk": {"path": str(home / "tmp" / victims_upload), "meta": META},
        "another account's upload": {"path": victims_upload, "meta": META},
        "another account's upload, with a file of mine as name": {
            "path": victims_upload,
            "orig_name": "/etc/passwd",
            "meta": META,
        },
        "an address": {"path": "http://93.184.216.34:7945/x", "meta": META},
        "an address as url": {"path": "x", "url": "http://93.184.216.34:7945/x", "meta": META},
        "an address without path": {"url": "http://93.184.216.34:7945/x", "meta": META},
        "a file's address": {"path": "file:///etc/passwd", "meta": META},
        "a picture in the address": {"path": "data:image/png;base64,iVBORw0KGgo=", "meta": META},
        "gradio's address of a file": {"path": "/gradio_api/file=/etc/passwd", "meta": META},
        "nested in lists": [[["x", passwd]]],
        "nested in objects": {"a": {"b": [{"c": passwd}]}},
        "inside a reference": {"path": passwd, "meta": META},
        "inside the meta": {"path": "x", "meta": {"_type": "gradio.FileData", "more": passwd}},
        "without meta": {"path": "/etc/passwd"},
        "a meta of another kind": {"path": "/etc/passwd", "meta": ["gradio.FileData"]},
        "a meta that is nothing": {"path": "/etc/passwd", "meta": None},
        "a stream": {"path": "/etc/passwd", "is_stream": True, "meta": META},
        "no text as path": {"path": ["/etc/passwd"], "meta": META},
        "a number as path": {"path": 0, "meta": META},
        "no path": {"path": None, "url": None, "meta": META},
        "a component's properties": {"value": passwd, "__type__": "update"},
        "a zero in the path": {"path": "/etc/passwd\0.png", "meta": META},
        "our own form": {"upload": "/etc/passwd"},
        "our own form, another's": {"upload": victims_upload},
    }


@pytest.fixture(scope="module")
def forged(victim: Victim, callers: Any) -> dict[str, Any]:
    return references(victim.services.settings.home, sent(callers("ann"), picture()))


#: The first tier sends all references through one door, and each third through the others.
@pytest.mark.parametrize(
    ("who", "step"),
    [pytest.param("eve", 1, marks=pytest.mark.slow), pytest.param("bob", 1, marks=pytest.mark.slow), ("bob", 3)],
)
@pytest.mark.parametrize(
    ("door", "endpoint"),
    [
        pytest.param(
            door,
            endpoint,
            marks=pytest.mark.slow if endpoint[0] == "gallery" and door is not by_run else (),
            id=f"{door.__name__}-{endpoint[0]}",
        )
        for door in DOORS
        for endpoint in ENDPOINTS
    ],
)
def test_no_file_reference_reads_anything(
    victim: Victim,
    callers: Any,
    forged: dict[str, Any],
    opened: list[str],
    who: str,
    step: int,
    endpoint: Any,
    door: Any,
) -> None:
    before = kept(victim)
    for name, value in list(forged.items())[:: 1 if door is by_run else step]:
        client = callers(who)
        answer = door(client, *endpoint, value)
        assert answer.status_code in (200, 400, 404, 500), f"{name}: {answer.text}"
        assert answer.status_code != 200 or "own form" in name, f"{name}: {answer.text}"
        text = answer.text
        if answer.status_code == 200:  # not a FileData to Gradio: the endpoint itself refuses it
            text = results(client, answer, endpoint[0])
            assert "error" in text, name
        for secret in (
            MARK,
            "SQLite format",
            "secret-of",
            str(victim.services.settings.home),
            "/etc/passwd",
            "environ",
        ):
            assert secret not in text, f"{name}: {text}"
    assert opened == []
    assert kept(victim) == before


def results(client: httpx.Client, answer: httpx.Response, name: str) -> str:
    """All events of a call that was taken on."""
    event_id = answer.json()["event_id"]
    if answer.request.url.path.endswith("/queue/join"):
        return client.get("/gradio_api/queue/data", params={"session_hash": "evil"}).text.replace(
            'success":false', "error"
        )
    return client.get(f"/gradio_api/call/{name}/{event_id}").text


def test_the_references_are_refused_for_what_they_are(callers: Any, forged: dict[str, Any]) -> None:
    """The same call with the caller's own upload goes through, so the refusals above are not for something else."""
    bob = callers("bob")
    answer = by_run(bob, "add_source", "picture", {"path": sent(bob, picture()), "meta": META})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["width"] == 64


def test_an_address_beside_an_own_upload_is_not_fetched(callers: Any, opened: list[str]) -> None:
    bob = callers("bob")
    value = {"path": sent(bob, picture()), "url": "http://93.184.216.34/x", "is_stream": True, "size": -1, "meta": META}
    assert by_run(bob, "add_source", "picture", value).status_code == 200
    assert opened == []


@pytest.mark.parametrize("name", ["gallery", "jobs"])
def test_a_value_in_an_error_is_short_text_or_a_number(callers: Any, name: str) -> None:
    for value in ({"secret": "x"}, ["secret"], {"a": [{"b": "secret"}]}):
        answer = callers("bob").post(
            f"/gradio_api/run/{name}", json={"data": ["", "", value][::1] if name == "jobs" else [value]}
        )
        assert answer.status_code == 500
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("[" * 100_000 + "]" * 100_000, 400),
        ('{"data": [' + '{"a":' * 500 + "1" + "}" * 500 + "]}", 400),
        ('{"data": {"path": "/etc/passwd"}}', 400),
        ('{"data": "x"}', 400),
        ("[]", 400),
        ("null", 400),
        ("", 400),
        ('{"data": [], "session_hash": "../../x"}', 400),
        ('{"data": [], "session_hash": {"a": 1}}', 400),
        ('{"data": [], "session_hash": "' + "x" * 65 + '"}', 400),
        ('{"data": [], "fn_index": 99999}', 404),
        ('{"data": [], "fn_index": "0"}', 404),
        ('{"data": [], "fn_index": true}', 404),
    ],
)
def test_an_odd_body_is_refused(callers: Any, body: str, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = callers("eve").post("/gradio_api/run/gallery", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert "error" in answer.json()


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_body_that_is_not_said_to_be_json_is_refused(callers: Any, kind: str) -> None:
    answer = callers("bob").post("/gradio_api/run/queue", content='{"data": []}', headers={"Content-Type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize("path", ["/gradio_api/run/none", "/gradio_api/call/none", "/gradio_api/call/v2/none"])
def test_an_endpoint_that_is_not_there(callers: Any, path: str) -> None:
    assert callers("bob").post(path, json={"data": []}).status_code == 404


@pytest.mark.parametrize("declared", [True, False])
def test_a_viewer_fills_no_memory(callers: Any, declared: bool) -> None:
    data = b'{"data": ["' + b"x" * 2_000_000 + b'"]}'
    body: Any = data if declared else iter([data[:1_500_000], data[1_500_000:]])
    try:
        answer = callers("eve").post(
            "/gradio_api/run/gallery", content=body, headers={"Content-Type": "application/json"}
        )
    except httpx.WriteError:  # refused while the body was still being sent
        return
    assert answer.status_code in (411, 413)


# -- results --------------------------------------------------------------------------------------------------------


def joined(client: httpx.Client, session: str, name: str, *values: Any) -> str:
    endpoints = client.get("/config").json()["dependencies"]
    index = next(each["id"] for each in endpoints if each["api_name"] == name)
    body = {"data": list(values), "fn_index": index, "session_hash": session}
    return str(client.post("/gradio_api/queue/join", json=body).json()["event_id"])


def test_results_of_a_session_go_to_who_started_it(victim: Victim, callers: Any) -> None:
    ann, bob = callers("ann"), callers("bob")
    joined(ann, "shared-hash", "job", victim.job)
    for session in ("shared-hash", session_key("ann", "shared-hash"), session_key("", "shared-hash")):
        answer = bob.get("/gradio_api/queue/data", params={"session_hash": session})
        assert answer.status_code == 404
        assert "secret" not in answer.text
    joined(bob, "shared-hash", "models")
    theirs = bob.get("/gradio_api/queue/data", params={"session_hash": "shared-hash"}).text
    assert "process_completed" in theirs
    assert victim.job not in theirs
    assert "a secret hill" in ann.get("/gradio_api/queue/data", params={"session_hash": "shared-hash"}).text


@pytest.mark.parametrize("query", ["", "session_hash=", "session_hash=a&session_hash=b", "session_hash=..%2Fx"])
def test_a_session_is_named_once(callers: Any, query: str) -> None:
    assert callers("bob").get(f"/gradio_api/queue/data?{query}").status_code == 400


@pytest.mark.parametrize("version", ["", "v2/"])
def test_results_of_a_call_go_to_who_made_it(victim: Victim, callers: Any, version: str) -> None:
    ann, bob = callers("ann"), callers("bob")
    body = {"job_id": victim.job} if version else {"data": [victim.job]}
    event = ann.post(f"/gradio_api/call/{version}job", json=body).json()["event_id"]
    for who in (bob, callers("eve")):
        assert who.get(f"/gradio_api/call/{version}job/{event}").status_code == 404
        assert who.get(f"/gradio_api/call/job/{event}").status_code == 404
        assert who.get("/gradio_api/queue/data", params={"session_hash": event}).status_code == 404
        cancel = {"event_id": event, "session_hash": event, "fn_index": 0}
        assert who.post("/gradio_api/cancel", json=cancel).status_code == 404
    assert "a secret hill" in ann.get(f"/gradio_api/call/{version}job/{event}").text


def test_nobody_cancels_another_accounts_call(victim: Victim, callers: Any) -> None:
    ann, bob = callers("ann"), callers("bob")
    event = joined(ann, "waiting", "wait", victim.job, 3.0)
    index = next(each["id"] for each in ann.get("/config").json()["dependencies"] if each["api_name"] == "wait")
    for session in ("waiting", session_key("ann", "waiting")):
        body = {"event_id": event, "session_hash": session, "fn_index": index}
        assert bob.post("/gradio_api/cancel", json=body).status_code == 404
    text = ann.get("/gradio_api/queue/data", params={"session_hash": "waiting"}).text
    assert "a secret hill" in text
    body = {"event_id": event, "session_hash": "waiting", "fn_index": index}
    assert ann.post("/gradio_api/cancel", json=body).json() == {"success": True}


# -- uploads --------------------------------------------------------------------------------------------------------


def test_an_upload_is_read_back_by_its_uploader_only(callers: Any) -> None:
    data = picture()
    path = sent(callers("ann"), data)
    assert callers("ann").get(f"/gradio_api/file={path}").content == data
    for who in ("bob", "eve", "root"):
        assert callers(who).get(f"/gradio_api/file={path}").status_code == 404
    served = callers("ann").get(f"/gradio_api/file={path}").headers
    assert served["content-disposition"].startswith("attachment")
    assert served["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//etc/passwd",
        "uploads/../../app.db",
        "uploads/%2e%2e/%2e%2e/app.db",
        "http://93.184.216.34/x",
        "{home}/app.db",
        "{home}/tmp/uploads",
        "",
        "uploads/" + "0" * 32,
    ],
)
def test_no_other_file_is_served(victim: Victim, callers: Any, path: str) -> None:
    address = "/gradio_api/file=" + path.replace("{home}", str(victim.services.settings.home))
    for method in ("GET", "HEAD"):
        assert callers("root").request(method, address, follow_redirects=False).status_code == 404


def test_an_upload_is_deleted_when_it_was_used(victim: Victim, callers: Any) -> None:
    ann = callers("ann")
    before = kept(victim)
    path = sent(ann, picture())
    reference = {"path": path, "meta": META}
    assert by_run(ann, "add_source", "picture", reference).status_code == 200
    assert ann.get(f"/gradio_api/file={path}").status_code == 404
    assert by_run(ann, "add_source", "picture", reference).status_code == 404
    wrong = {"path": sent(ann, b"no picture"), "meta": META}
    assert "must be a picture" in by_run(ann, "add_source", "picture", wrong).text
    assert kept(victim) == before


@pytest.mark.parametrize("who", ["eve", "reader"])
def test_who_may_not_submit_is_refused_before_the_body(server: str, victim: Victim, who: str) -> None:
    """The answer comes though not one byte of the body was sent."""
    before = kept(victim)
    with socket.create_connection(("127.0.0.1", urlsplit(server).port), timeout=20) as connection:
        head = [
            "POST /gradio_api/upload HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: {victim.headers(who)['Authorization']}",
            "Content-Type: multipart/form-data; boundary=x",
            "Content-Length: 1000000",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 403")
    assert kept(victim) == before


def test_an_upload_is_not_larger_than_a_picture_may_be(victim: Victim, callers: Any) -> None:
    before = kept(victim)
    size = (victim.services.settings.max_source_mb + 1) * 1_000_000
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}

    def endless() -> Iterator[bytes]:
        yield form
        for _ in range(size // 1_000_000):
            yield b"x" * 1_000_000

    for content in (form + b"x" * size, endless()):
        try:
            answer = callers("ann").post("/gradio_api/upload", content=content, headers=headers)
        except httpx.WriteError:  # refused while the body was still being sent
            continue
        assert answer.status_code in (411, 413), answer.text
    assert kept(victim) == before


@pytest.mark.parametrize("name", ["../../evil.html", "/etc/cron.d/evil", "..", "a\\..\\evil", "x" * 5000, "evil\0.png"])
def test_a_name_of_an_upload_names_nothing(victim: Victim, callers: Any, name: str) -> None:
    answer = callers("submitter").post("/gradio_api/upload", files={"files": (name, b"<script>", "text/html")})
    assert answer.status_code in (200, 400)
    assert not list(victim.services.settings.home.rglob("*evil*"))
    if answer.status_code == 200:
        callers("submitter").post(
            "/gradio_api/run/add_source", json={"data": [{"path": answer.json()[0], "meta": META}]}
        )


def test_uploads_of_one_account_are_bounded_and_others_go_on(callers: Any) -> None:
    root = callers("root")
    paths = [sent(root, b"x") for _ in range(MAX_FILES)]
    answer = root.post("/gradio_api/upload", files={"files": ("a", b"x")})
    assert answer.status_code == 429
    assert "may be stored" in answer.json()["error"]["message"]
    mine = {"path": sent(callers("bob"), picture()), "meta": META}
    assert by_run(callers("bob"), "add_source", "picture", mine).status_code == 200
    for path in paths:
        by_run(root, "add_source", "picture", {"path": path, "meta": META})
    assert root.post("/gradio_api/upload", files={"files": ("a", b"x")}).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x--\r\n", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"x", "multipart/form-data"),
        (b"x", "application/json"),
    ],
)
def test_an_odd_form_is_refused(callers: Any, content: bytes, kind: str) -> None:
    answer = callers("ann").post("/gradio_api/upload", content=content, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422), answer.text


# -- the clients that must go on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 500])
def test_handle_file_with_a_real_picture(server: str, victim: Victim, tmp_path: Path, side: int) -> None:
    (tmp_path / "apple.png").write_bytes(picture(side))  # 12 kB and 750 kB
    client = Client(server, headers=victim.headers("ann"), verbose=False)
    source = client.predict(handle_file(tmp_path / "apple.png"), api_name="/add_source")
    assert (source["width"], source["height"]) == (side, side)
    receipt = client.predict("a green apple", source=source["id"], width=128, height=128, api_name="/submit")
    job = client.predict(receipt["job_ids"][0], api_name="/job")
    assert job["params"]["source"] == source["id"]
    client.predict(job_id=receipt["job_ids"][0], api_name="/cancel")


def test_a_viewers_client_cannot_upload(server: str, victim: Victim, tmp_path: Path) -> None:
    (tmp_path / "apple.png").write_bytes(picture())
    client = Client(server, headers=victim.headers("eve"), verbose=False)
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        client.predict(handle_file(tmp_path / "apple.png"), api_name="/add_source")
    assert client.predict(api_name="/gallery")["images"] == []


def test_handle_file_with_an_address_is_refused(server: str, victim: Victim, opened: list[str]) -> None:
    client = Client(server, headers=victim.headers("ann"), verbose=False)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        client.predict(handle_file("http://93.184.216.34/apple.png"), api_name="/add_source")
    assert opened == []


def test_plain_http_gets_its_results(victim: Victim, callers: Any) -> None:
    ann = callers("ann")
    event = ann.post("/gradio_api/call/job", json={"data": [victim.job]}).json()["event_id"]
    text = ann.get(f"/gradio_api/call/job/{event}").text
    assert text.startswith("event: complete\n")
    assert json.loads(text.split("data: ", 1)[1])[0]["id"] == victim.job
    assert "/gradio_api/call/v2/job" in ann.get("/gradio_api/openapi.json").json()["paths"]
