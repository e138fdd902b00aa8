"""What the dialects remember about their callers: bounded, and each account's own."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from diffusion_local.actor import LOCAL, Actor, acting
from diffusion_local.web.api.dialects import calls
from diffusion_local.web.api.dialects.calls import MOST_CALLERS, PerAccount
from tests.web.conftest import client_of, services_of

API = "/sdapi/v1"
PASSWORD = "correct horse"
CHOSEN = {"CLIP_stop_at_last_layers": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, dict[str, str]]]]:
    """A client, and by account or token the headers that name it."""
    services = services_of(tmp_path_factory)
    accounts = services.studio.accounts
    scopes = {"root": ["submit"], "ann": ["submit"], "bob": ["submit"], "eve": []}
    with acting(LOCAL):
        for name, role in (("root", "admin"), ("ann", "user"), ("bob", "user"), ("eve", "viewer")):
            accounts.add(name, PASSWORD, role)
        secrets = {name: accounts.add_token(name, "test", scopes[name])[1] for name in scopes}
        secrets["ann, reading"] = accounts.add_token("ann", "reading", [])[1]
    with client_of(services, page=False) as client:
        yield client, {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets.items()}


def test_many_user_agents_of_one_account_displace_no_other_account(
    served: tuple[TestClient, dict[str, dict[str, str]]],
) -> None:
    client, headers = served
    assert client.post(f"{API}/options", json=CHOSEN, headers=headers["ann"]).status_code == 200
    first = headers["bob"] | {"User-Agent": "program 0"}
    for number in range(MOST_CALLERS + 1):
        mine = headers["bob"] | {"User-Agent": f"program {number}"}
        assert client.post(f"{API}/options", json=CHOSEN, headers=mine).status_code == 200
    assert client.get(f"{API}/options", headers=headers["ann"]).json()["CLIP_stop_at_last_layers"] == 2
    assert client.get(f"{API}/options", headers=mine).json()["CLIP_stop_at_last_layers"] == 2
    assert client.get(f"{API}/options", headers=first).json()["CLIP_stop_at_last_layers"] == 1


@pytest.mark.parametrize("who", ["eve", "ann, reading"])
def test_only_who_may_submit_sets_options(served: tuple[TestClient, dict[str, dict[str, str]]], who: str) -> None:
    client, headers = served
    assert client.get(f"{API}/options", headers=headers[who]).status_code == 200
    assert client.post(f"{API}/options", json=CHOSEN, headers=headers[who]).status_code == 403
    assert client.get(f"{API}/options", headers=headers[who]).json()["CLIP_stop_at_last_layers"] == 1


def test_an_account_keeps_its_newest_keys_and_sees_no_others() -> None:
    kept: PerAccount[int] = PerAccount(2)
    with acting(Actor("ann")):
        kept["a"] = 0
    with acting(Actor("bob")):
        assert kept["a"] is None
        for number, key in enumerate("abac"):  # setting "a" again makes it newer than "b"
            kept[key] = number
        assert [kept[key] for key in "abc"] == [2, None, 3]
        assert kept.pop("a") == 2
        assert kept.pop("a") is None
    with acting(Actor("ann")):
        assert kept["a"] == 0


def test_the_number_of_accounts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_ACCOUNTS", 2)
    kept: PerAccount[str] = PerAccount()
    for name in ("", "ann", "", "bob"):
        with acting(Actor(name)):
            kept["key"] = name
    found = {}
    for name in ("", "ann", "bob"):
        with acting(Actor(name)):
            found[name] = kept["key"]
    assert found == {"": "", "ann": None, "bob": "bob"}
