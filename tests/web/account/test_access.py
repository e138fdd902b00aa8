"""Who is it: cookies and tokens through every door, and what somebody unknown gets."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from diffusion_local.actor import LOCAL, acting, current
from diffusion_local.compose import Services
from diffusion_local.web.authentication import cookie_name
from tests.support import eventually
from tests.web.conftest import client_of, made, services_of

PASSWORD = "correct horse"
SUBMIT = {"prompt": "a red apple", "width": 128, "height": 128, "steps": 4}
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    found = services_of(tmp_path_factory, share="own")
    found.studio.accounts.add("root", PASSWORD)
    for name, role in (("ann", "user"), ("bob", "user"), ("eve", "viewer")):
        found.studio.accounts.add(name, PASSWORD, role)
    return found


@pytest.fixture(scope="module")
def application(services: Services) -> TestClient:
    return client_of(services)


@pytest.fixture
def client(application: TestClient) -> Iterator[TestClient]:
    application.cookies.clear()
    yield application
    application.cookies.clear()


@pytest.fixture(scope="module")
def tokens(services: Services) -> dict[str, str]:
    scopes = {
        "root": ["submit", "control", "admin"],
        "ann": ["submit", "control"],
        "bob": ["submit", "control"],
        "eve": [],
    }
    return {name: services.studio.accounts.add_token(name, "test", of)[1] for name, of in scopes.items()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def signed_in(client: TestClient, name: str = "ann") -> TestClient:
    answer = client.post("/login", data={"username": name, "password": PASSWORD}, headers=HTML, follow_redirects=False)
    assert answer.status_code == 303
    return client


@pytest.mark.parametrize(
    "path",
    [
        "/config",
        "/gradio_api/info",
        "/api/v1/jobs",
        "/v1/models",
        "/sdapi/v1/options",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/images/x.png",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/heartbeat/x",
        "/theme.css",
        "/account",
        "/loginx",
    ],
)
def test_somebody_unknown_gets_nothing(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    refusal = answer.json()
    if path.startswith("/sdapi"):  # in the shape of its dialect
        assert "sign in" in refusal["detail"].lower()
    else:
        assert refusal["error"]["code"] == "unauthorized"


@pytest.mark.parametrize(
    "path", ["/gradio_api/run/submit", "/gradio_api/queue/join", "/api/v1/jobs", "/gradio_api/upload"]
)
def test_somebody_unknown_does_nothing(client: TestClient, services: Services, path: str) -> None:
    before = services.studio.revision()
    assert client.post(path, json={"data": ["a red apple"], "fn_index": 0}).status_code == 401
    assert services.studio.revision() == before


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/login", "/assets/icons/mark.svg"])
def test_what_is_open_is_open(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (200, 503)


def test_a_browser_is_sent_to_the_sign_in_and_back(client: TestClient) -> None:
    sent = client.get("/?tab=queue", headers=HTML, follow_redirects=False)
    assert (sent.status_code, sent.headers["Location"]) == (303, "/login?next=%2F%3Ftab%3Dqueue")
    page = client.get(sent.headers["Location"], headers=HTML)
    assert 'name="next" value="/?tab=queue"' in page.text
    fields = {"username": "ann", "password": PASSWORD, "next": "/?tab=queue"}
    back = client.post("/login", data=fields, headers=HTML, follow_redirects=False)
    assert back.headers["Location"] == "/?tab=queue"
    assert client.get("/", headers=HTML).status_code == 200


@pytest.mark.parametrize(
    "evil", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\r\nX: y"]
)
def test_the_way_back_leads_nowhere_else(client: TestClient, evil: str) -> None:
    fields = {"username": "ann", "password": PASSWORD, "next": evil}
    answer = client.post("/login", data=fields, headers=HTML, follow_redirects=False)
    assert answer.headers["Location"] == "/"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(client: TestClient, services: Services) -> None:
    answer = client.post("/login", data={"username": "ann", "password": PASSWORD})
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(cookie_name(services.settings))
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=2592000"):
        assert part in cookie
    assert "Secure" not in cookie
    secure = TestClient(client.app, base_url="https://127.0.0.1:7860")
    assert "Secure" in secure.post("/login", data={"username": "ann", "password": PASSWORD}).headers["Set-Cookie"]


def test_a_session_works_after_a_restart(client: TestClient, services: Services) -> None:
    signed_in(client)
    restarted = TestClient(
        client_of(services, page=False).app, base_url="http://127.0.0.1:7860", cookies=dict(client.cookies)
    )
    assert restarted.get("/api/v1/jobs").status_code == 200


def test_signing_out_ends_the_session_itself(client: TestClient) -> None:
    signed_in(client)
    kept = dict(client.cookies)
    assert client.post("/logout", follow_redirects=False).headers["Location"] == "/login?out=true"
    thief = TestClient(client.app, base_url="http://127.0.0.1:7860", cookies=kept)
    assert thief.get("/api/v1/jobs").status_code == 401


def test_guesses_from_everywhere_do_not_lock_out_a_browser_that_has_signed_in(
    client: TestClient, services: Services
) -> None:
    services.studio.accounts.add("dan", PASSWORD, "user")
    cookie = f"{cookie_name(services.settings)}_device"
    result = client.post("/login", data={"username": "dan", "password": PASSWORD}).headers.get_list("Set-Cookie")
    [device] = [each for each in result if each.startswith(cookie)]
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=15552000"):
        assert part in device
    kept = client.cookies[cookie]

    def attempt(address: str, password: str, cookies: dict[str, str]) -> int:
        there = TestClient(client.app, base_url="http://127.0.0.1:7860", client=(address, 1), cookies=cookies)
        return there.post("/login", data={"username": "dan", "password": password}).status_code

    for number in range(60):
        assert attempt(f"203.0.113.{number}", "wrong password", {}) == 401
    assert attempt("203.0.113.200", PASSWORD, {}) == 429
    assert attempt("203.0.113.200", PASSWORD, {cookie: "made up"}) == 429
    assert attempt("203.0.113.200", PASSWORD, {cookie: kept}) == 200
    assert attempt("127.0.0.1", PASSWORD, {}) == 200


@pytest.mark.parametrize("language", ["en", "zh-CN,zh;q=0.9"])
def test_a_wrong_password_is_told_in_the_form_and_name_is_only_text(client: TestClient, language: str) -> None:
    fields = {"username": '"><script>alert(1)</script>', "password": "wrong password"}
    answer = client.post("/login", data=fields, headers=HTML | {"Accept-Language": language})
    assert answer.status_code == 401
    assert "<script" not in answer.text
    assert ("用户名或密码不正确" in answer.text) == language.startswith("zh")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        lambda token: bearer(token),
        lambda token: {"Authorization": f"Token {token}"},
        lambda token: {"X-API-Key": token},
        lambda token: {"Authorization": "Basic " + base64.b64encode(f"ann:{token}".encode()).decode()},
        lambda token: {"Authorization": "Basic " + base64.b64encode(f"{token}:".encode()).decode()},
    ],
    ids=["bearer", "token", "x-api-key", "basic", "basic without a name"],
)
def test_a_token_comes_in_five_ways(client: TestClient, tokens: dict[str, str], headers: Any) -> None:
    answer = client.post("/api/v1/jobs", json=SUBMIT, headers=headers(tokens["ann"]))
    assert answer.status_code == 202
    job = client.get(f"/api/v1/jobs/{answer.json()['job_ids'][0]}", headers=headers(tokens["ann"])).json()
    assert job["owner"] == "ann"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer dl_wrong"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"ann:" + PASSWORD.encode()).decode()},
        {"X-API-Key": "\xff"},
    ],
    ids=["unknown", "no base64", "a password is no token", "not text"],
)
def test_a_wrong_token_is_refused_even_beside_a_good_cookie(client: TestClient, headers: dict[str, str]) -> None:
    signed_in(client)
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    assert client.get("/api/v1/jobs", headers=sent).status_code == 401  # type: ignore[arg-type]


def test_an_empty_basic_header_is_as_none(client: TestClient) -> None:
    signed_in(client)
    assert client.get("/api/v1/jobs", headers={"Authorization": "Basic Og=="}).status_code == 200


def test_anothers_token_under_ones_own_name_is_refused(client: TestClient, tokens: dict[str, str]) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(f"bob:{tokens['ann']}".encode()).decode()}
    assert client.get("/sdapi/v1/options", headers=headers).status_code == 401


def test_scopes_hold_in_every_door(client: TestClient, services: Services, tokens: dict[str, str]) -> None:
    looks = bearer(tokens["eve"])
    assert client.post("/api/v1/jobs", json=SUBMIT, headers=looks).status_code == 403
    assert client.post("/v1/images/generations", json={"prompt": "a tree"}, headers=looks).status_code == 403
    assert client.post("/sdapi/v1/txt2img", json={"prompt": "a tree"}, headers=looks).status_code == 403
    assert client.post("/predictions", json={"input": {"prompt": "a tree"}}, headers=looks).status_code == 403
    assert client.post("/api/v1/queue/pause", headers=bearer(tokens["ann"])).status_code == 403
    result = client.post("/gradio_api/run/submit", json={"data": ["a tree"]}, headers=looks)
    assert result.status_code == 500
    assert "may not submit" in result.text
    assert client.post("/api/v1/queue/pause", headers=bearer(tokens["root"])).status_code == 200
    client.post("/api/v1/queue/resume", headers=bearer(tokens["root"]))


def test_what_is_anothers_is_not_there_in_any_door(
    client: TestClient, services: Services, tokens: dict[str, str]
) -> None:
    services.studio.queue.cancel(waiting=True)
    with acting(replace(LOCAL, name="ann")):
        image = made(services, "a secret garden")
        job = services.studio.submit("a secret hill", width=128, height=128, steps=4)
    bobs = bearer(tokens["bob"])
    for path in (
        f"/images/{image.id}.png",
        f"/thumbnails/{image.id}.webp",
        f"/previews/{job.job_ids[0]}.webp",
        f"/api/v1/images/{image.id}",
        f"/api/v1/images/{image.id}/recipe",
        f"/api/v1/jobs/{job.job_ids[0]}",
        f"/api/v1/jobs/{job.job_ids[0]}/events",
        f"/api/v1/jobs/{job.job_ids[0]}/stream",
        f"/api/v1/batches/{job.batch_id}",
        f"/api/v1/batches/{job.batch_id}/stream",
        f"/api/v1/batches/{job.batch_id}/export",
    ):
        assert client.get(path, headers=bobs).status_code == 404, path
        if not path.endswith("/stream"):  # an open stream would not end
            assert client.get(path, headers=bearer(tokens["root"])).status_code == 200, path
    for path in (f"jobs/{job.job_ids[0]}/cancel", f"jobs/{job.job_ids[0]}/again", f"batches/{job.batch_id}/cancel"):
        assert client.post(f"/api/v1/{path}", headers=bobs).status_code == 404, path
    for path in ("/api/v1/jobs", "/api/v1/images", "/api/v1/queue", "/api/v1/queue/export"):
        assert "secret" not in client.get(path, headers=bobs).text, path
        assert "secret" in client.get(path, headers=bearer(tokens["ann"])).text, path
    for name in ("jobs", "gallery", "queue"):
        text = client.post(f"/gradio_api/run/{name}", json={"data": []}, headers=bobs)
        assert text.status_code == 200
        assert "secret" not in text.text


def test_a_limit_is_429_with_the_time_to_wait(client: TestClient, services: Services, tokens: dict[str, str]) -> None:
    services.studio.accounts.set_limits("bob", per_day=1)
    try:
        assert client.post("/api/v1/jobs", json=SUBMIT, headers=bearer(tokens["bob"])).status_code == 202
        for path, body in (
            ("/api/v1/jobs", SUBMIT),
            ("/v1/images/generations", {"prompt": "a tree"}),
            ("/sdapi/v1/txt2img", {"prompt": "a tree"}),
            ("/predictions", {"input": {"prompt": "a tree"}}),
        ):
            answer = client.post(path, json=body, headers=bearer(tokens["bob"]))
            assert answer.status_code == 429, path
            assert 0 < int(answer.headers["Retry-After"]) <= 86400
            assert "1 pictures a day" in answer.text
    finally:
        services.studio.accounts.set_limits("bob", per_day=None)


def test_accounts_that_come_while_the_server_runs_count_at_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory)
    client = client_of(services, page=False)
    assert client.get("/api/v1/jobs").status_code == 200
    services.studio.accounts.add("root", PASSWORD)
    eventually(lambda: client.get("/api/v1/jobs").status_code == 401, 5, every=0.1)


def test_a_server_for_others_without_accounts_lets_nobody_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    client = client_of(services_of(tmp_path_factory, host="0.0.0.0"), page=False)
    answer = client.get("/api/v1/jobs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_accounts")
    messages = client_of(services_of(tmp_path_factory, host="0.0.0.0", auth="none"), page=False)
    assert messages.get("/api/v1/jobs").status_code == 200


def test_nobody_is_left_acting_after_a_request(client: TestClient, tokens: dict[str, str]) -> None:
    client.get("/api/v1/jobs", headers=bearer(tokens["ann"]))
    assert current() is LOCAL


def test_the_page_shows_the_way_to_ones_account(client: TestClient) -> None:
    from diffusion_local.web.page_html import shell

    assert 'class="act who"' not in shell("/ui/create")
    signed_in(client)
    page = client.get("/account")
    assert "ann" in page.text
    assert 'action="/logout"' in page.text
    with acting(replace(LOCAL, name="ann", source="session")):
        assert '<a class="act who" href="/account" title="Account">ann</a>' in shell("/ui/create")


def test_the_account_page_makes_and_removes_tokens(client: TestClient, services: Services) -> None:
    signed_in(client, "bob")
    made_page = client.post("/account/tokens", data={"name": "<b>night</b>", "scope": ["submit"]})
    [secret] = [word for word in made_page.text.replace("<", " ").replace(">", " ").split() if word.startswith("dl_")]
    assert "<b>night" not in made_page.text
    who = services.studio.accounts.by_token(secret)
    assert who
    [token] = [each for each in services.studio.accounts.tokens("bob") if each.name == "<b>night</b>"]
    assert secret not in client.get("/account").text
    client.post("/account/tokens/remove", data={"id": token.id})
    assert services.studio.accounts.by_token(secret) is None


def test_the_account_page_changes_the_password_and_signs_out_elsewhere(client: TestClient, services: Services) -> None:
    services.studio.accounts.add("zoe", PASSWORD, "user")
    elsewhere = services.studio.accounts.sign_in("zoe", PASSWORD, "10.0.0.7", "another browser")
    signed_in(client, "zoe")
    assert "another browser" in client.get("/account").text
    refused = client.post("/account/password", data={"old": "not this one", "new": "another horse"})
    assert refused.status_code == 401
    done = client.post("/account/password", data={"old": PASSWORD, "new": "another horse"})
    assert "every other browser is signed out" in done.text
    assert services.studio.accounts.by_session(elsewhere) is None
    assert client.get("/account").status_code == 200
