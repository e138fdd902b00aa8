"""Guessing tokens makes the guesser wait, and nobody else."""

import pytest
from fastapi.testclient import TestClient

from diffusion_local.accounts.service import WINDOW
from diffusion_local.web import authentication
from diffusion_local.web.authentication import MOST_WRONG, TokenGuesses
from tests.web.conftest import client_of, services_of


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_an_address_that_guesses_waits_and_its_own_tokens_go_on(tmp_path_factory: pytest.TempPathFactory) -> None:
    services = services_of(tmp_path_factory)
    services.studio.accounts.add("root", "correct horse")
    used, fresh = (services.studio.accounts.add_token("root", name, [])[1] for name in ("used", "fresh"))
    app = client_of(services, page=False).app
    here, elsewhere = (
        TestClient(app, base_url="http://127.0.0.1:7860", client=(address, 1)) for address in ("10.0.0.9", "10.0.0.5")
    )
    assert here.get("/api/v1/jobs", headers=bearer(used)).status_code == 200
    for number in range(MOST_WRONG):
        assert here.get("/api/v1/jobs", headers=bearer(f"dl_{number}")).status_code == 401
    refused = here.get("/api/v1/jobs", headers=bearer("dl_one_more"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "limit_reached")
    assert 0 < int(refused.headers["Retry-After"]) <= WINDOW
    assert here.get("/api/v1/jobs", headers=bearer(fresh)).status_code == 429
    assert here.get("/api/v1/jobs", headers=bearer(used)).status_code == 200
    assert elsewhere.get("/api/v1/jobs", headers=bearer(fresh)).status_code == 200


def test_the_wait_ends_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    counted = TokenGuesses(lambda: now[0])
    for _ in range(MOST_WRONG):
        counted.note("10.0.0.9", "wrong", right=False)
    assert counted.wait("10.0.0.9", "x") == WINDOW
    now[0] = WINDOW
    assert counted.wait("10.0.0.9", "x") == 0
    counted.note("10.0.0.9", "wrong", right=False)
    assert counted.wait("10.0.0.9", "x") == 0
    monkeypatch.setattr(authentication, "MOST_KEPT", 10)
    for number in range(100):
        counted.note(f"10.0.0.{number}", f"token {number}", right=number % 2 == 0)
    assert len(counted._wrong) == len(counted._right) == 10
