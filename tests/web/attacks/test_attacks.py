"""Attacks, each refused and without effect. Those of one request are rows of ``table``; the others are here."""

import io
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL
from PIL import PngImagePlugin

from diffusion_local.accounts import service
from diffusion_local.actor import LOCAL, acting
from diffusion_local.errors import InvalidParams, UserError
from diffusion_local.web.rate_limit import BURST_SECONDS
from tests.support import soon
from tests.web.attacks.conftest import PASSWORD, SMALL, Victim
from tests.web.attacks.table import ATTACKS, INSIDE, LONGER, Attack
from tests.web.conftest import client_of, made, services_of

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>"


def filled(text: str, victim: Victim) -> str:
    places = {
        "image": victim.image,
        "job": victim.job,
        "batch": victim.batch,
        "home": str(victim.services.settings.home),
    }
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def sent(client: TestClient, victim: Victim, attack: Attack):  # type: ignore[no-untyped-def]
    headers = {name: filled(value, victim) for name, value in attack.headers.items()}
    if attack.who:
        headers |= victim.headers(attack.who)
    if attack.cookie:
        assert client.post("/login", data={"username": "ann", "password": PASSWORD}).status_code == 200
    body = filled(attack.body, victim) if attack.body else None
    return client.request(attack.method, filled(attack.path, victim), headers=headers, content=body)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.what}: {attack.tried}")
def test_an_attack_is_refused_and_changes_nothing(client: TestClient, victim: Victim, attack: Attack) -> None:
    studio = victim.services.studio
    before = studio.revision()
    answer = sent(client, victim, attack)
    assert answer.status_code in attack.refused, answer.text
    assert studio.revision() == before
    assert "secret" not in answer.text
    assert "SQLite format" not in answer.text
    assert "root:" not in answer.text
    assert "access-control-allow-origin" not in answer.headers


def test_the_longer_attacks_are_those_of_the_table() -> None:
    assert set(LONGER) <= set(globals())


@pytest.mark.parametrize("url", INSIDE)
def test_a_webhook_does_not_reach_inside(victim: Victim, url: str) -> None:
    with acting(replace(LOCAL, name="ann")), pytest.raises(InvalidParams):
        victim.services.studio.webhooks.check(url)


def test_a_script_is_text_wherever_it_is_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory)
    client = client_of(services)
    services.studio.submit(SCRIPT, name=SCRIPT, owner=SCRIPT, **SMALL)
    image = made(services, SCRIPT)
    batch = services.studio.job(image.job_id).batch_id
    for path in ("/", "/docs", f"/api/v1/batches/{batch}", f"/api/v1/batches/{batch}/report?format=html"):
        answer = client.get(path)
        if "text/html" in answer.headers.get("content-type", ""):
            assert "<script>alert" not in answer.text, path
            assert "<img src=x" not in answer.text, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for tab in ("create", "queue", "gallery"):
        result = client.post("/look", json={"seen": "", "tab": tab, "asked": [batch]})
        assert result.status_code == 200, result.text
        assert "&lt;script&gt;alert(1)" in result.text, tab
        assert "<script>alert" not in result.text.replace("\\u003c", "<"), tab
        assert "<img src=x" not in result.text, tab
    named = client.get(f"/images/{image.id}.png?download=true").headers["content-disposition"]
    assert not set("<>\r\n") & set(named)


def test_guessing_a_password_is_stopped(client: TestClient) -> None:
    answers = [client.post("/login", data={"username": "root", "password": f"guess-{n}"}) for n in range(30)]
    assert [each.status_code for each in answers] == [401] * service.MAX_FOR_BOTH + [429] * 25
    assert int(answers[-1].headers["Retry-After"]) > 600
    assert client.post("/login", data={"username": "root", "password": PASSWORD}).status_code == 429
    unknown = client.post("/login", data={"username": "no-such-person", "password": "guess"})
    assert unknown.json() == answers[0].json()


def test_a_key_of_another_account_gives_nothing_away(client: TestClient, victim: Victim) -> None:
    wish = {"prompt": "a secret hill", **SMALL}
    key = {"Idempotency-Key": "anns-key"}
    bobs = client.post("/api/v1/jobs", json=wish, headers=key | victim.headers("bob"))
    assert bobs.status_code == 202
    assert bobs.json()["batch_id"] != victim.batch
    anns = client.post("/api/v1/jobs", json=wish, headers=key | victim.headers("ann"))
    assert anns.json()["batch_id"] == victim.batch


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG file that says to be so large, with whatever chunks."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def saved(form: str, **more: object) -> bytes:
    file = io.BytesIO()
    PIL.new("RGB", (8, 8)).save(file, form, **more)
    return file.getvalue()


BOMBS = {
    "a picture of 10 gigapixels": png(100_000, 100_000),
    "no pixels": png(0, 0),
    "cut off": saved("PNG")[:45],
    "a script": b"<script>alert(1)</script>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_unpacked(client: TestClient, victim: Victim, name: str) -> None:
    kept = sum(1 for _ in victim.services.settings.sources.rglob("*"))
    started = time.monotonic()
    headers = victim.headers("ann") | {"Content-Type": "image/png"}
    answer = client.post("/api/v1/sources", content=BOMBS[name], headers=headers)
    assert answer.status_code in (413, 422), answer.text
    assert time.monotonic() - started < soon(5)
    assert sum(1 for _ in victim.services.settings.sources.rglob("*")) == kept


def endless() -> Iterator[bytes]:
    text = PngImagePlugin.PngInfo()
    for number in range(2000):
        text.add_text(f"parameters{number}", "x" * 500, zip=True)
    yield saved("PNG", pnginfo=text)
    bomb = zlib.compress(b"x" * 200_000_000, 1)
    yield png(8, 8, chunk(b"zTXt", b"parameters\0\0" + bomb))
    yield png(8, 8, chunk(b"iTXt", b"parameters\0\1\0\0\0" + bomb))


def test_metadata_cannot_run_away(client: TestClient, victim: Victim) -> None:
    import base64

    for data in endless():
        started = time.monotonic()
        headers = victim.headers("ann")
        client.post("/api/v1/sources", content=data, headers=headers | {"Content-Type": "image/png"})
        result = client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(data).decode()}, headers=headers)
        assert time.monotonic() - started < soon(10)
        assert result.status_code < 500
        assert len(result.content) < 5_000_000


def test_a_viewer_fills_no_disk(client: TestClient, victim: Victim) -> None:
    headers = victim.headers("eve") | {"Content-Type": "image/png"}
    assert client.post("/api/v1/sources", content=saved("PNG"), headers=headers).status_code == 403


def test_gradios_upload_takes_nothing_large(client: TestClient, victim: Victim) -> None:
    limit = (victim.services.settings.max_source_mb + victim.services.settings.max_list_mb + 2) * 1_000_000
    files = {"files": ("../../evil.html", b"<script>" * (limit // 8), "text/html")}
    answer = client.post("/gradio_api/upload", files=files, headers=victim.headers("ann"))
    assert answer.status_code in (400, 413)
    assert not list(victim.services.settings.home.rglob("evil*"))


def test_the_page_answers_during_a_flood(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory, auth="none", host="0.0.0.0", writes_per_second=5)
    application = client_of(services).app
    attacker = TestClient(application, base_url="http://127.0.0.1:7860", client=("10.0.0.9", 1))
    person = TestClient(application, base_url="http://127.0.0.1:7860", client=("10.0.0.8", 1))
    statuses, slowest, began = [], 0.0, time.monotonic()
    for number in range(120):
        statuses.append(attacker.post("/api/v1/jobs", content=b"{}").status_code)
        if number % 40 == 0:
            started = time.monotonic()
            assert person.get("/api/v1/queue").status_code == 200
            slowest = max(slowest, time.monotonic() - started)
    rate = services.settings.writes_per_second
    let_in = len(statuses) - statuses.count(429)
    assert 0 < let_in <= rate * (BURST_SECONDS + time.monotonic() - began) + 1
    assert 429 in statuses
    assert slowest < soon(2)
    assert person.post("/api/v1/jobs", json={"prompt": "a tree"} | SMALL).status_code == 202


def test_no_answer_tells_a_path_of_the_machine(client: TestClient, victim: Victim) -> None:
    home = str(victim.services.settings.home)
    headers = victim.headers("root")
    for path in (
        "/",
        "/config",
        "/gradio_api/info",
        "/openapi.json",
        "/metrics",
        "/readyz",
        "/api/v1/models",
        "/login",
    ):
        assert home not in client.get(path, headers=headers).text, path
    for path in ("/api/v1/jobs?limit=x", "/images/none.png", "/gradio_api/file=x", "/gradio_api/run/none"):
        text = client.get(path, headers=headers).text
        assert home not in text, path
        assert "Traceback" not in text, path


def test_no_secret_is_logged(client: TestClient, victim: Victim, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    client.post("/login", data={"username": "ann", "password": PASSWORD})
    client.get("/api/v1/jobs", headers=victim.headers("bob"))
    with pytest.raises(UserError):
        victim.services.studio.accounts.sign_in("ann", "a wrong password", "10.0.0.5", "")
    for secret in (PASSWORD, "a wrong password", victim.tokens["bob"], *client.cookies.values()):
        assert secret not in caplog.text


def test_the_recorded_table_is_of_these_attacks() -> None:
    from scripts.attacks_table import TARGET, table

    assert TARGET.read_text(encoding="utf-8") == table()
