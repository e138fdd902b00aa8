"""Which settings let strangers in, and that a server without accounts does not start with one of them."""

from dataclasses import replace

import pytest

from diffusion_local.compose import Services
from diffusion_local.errors import Conflict, UserError
from diffusion_local.settings import Settings
from diffusion_local.system.network import check_exposure, exposing_setting, is_loopback

PASSWORD = "correct horse"

EXPOSING = [
    {"host": "0.0.0.0"},
    {"host": "::"},
    {"host": "192.168.1.5"},
    {"host": "studio.local"},
    {"trusted_proxies": "127.0.0.1"},
    {"trusted_proxies": "10.0.0.0/8, 127.0.0.1"},
    {"root_path": "/studio"},
    {"allowed_hosts": "studio.example"},
    {"allowed_hosts": "localhost, studio.example"},
    {"cors_origins": "https://front.example"},
    {"cors_origins": "http://localhost:3000,https://front.example"},
]
LOCAL_ONLY = [
    {},
    {"host": "127.0.0.1"},
    {"host": "::1"},
    {"host": "localhost"},
    {"root_path": "/"},
    {"allowed_hosts": "localhost, 127.0.0.1, [::1]"},
    {"cors_origins": "http://localhost:3000, http://127.0.0.1:5173"},
    {"trusted_proxies": " "},
]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("[::1]", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "", "192.168.1.5", "studio.local", "localhost.evil.example")],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("changes", EXPOSING, ids=str)
def test_a_server_for_others_needs_accounts(settings: Settings, changes: dict[str, str]) -> None:
    reached = replace(settings, **changes)  # type: ignore[arg-type]
    [name] = changes
    with pytest.raises(UserError, match=rf"\({name} = .*user add NAME.*--no-auth"):
        check_exposure(reached, has_accounts=False)
    check_exposure(reached, has_accounts=True)
    check_exposure(replace(reached, auth="none"), has_accounts=False)


@pytest.mark.parametrize("changes", LOCAL_ONLY, ids=str)
def test_a_server_of_this_machine_needs_none(settings: Settings, changes: dict[str, str]) -> None:
    local = replace(settings, **changes)  # type: ignore[arg-type]
    assert exposing_setting(local) == ""
    check_exposure(local, has_accounts=False)


def test_the_last_account_of_a_server_for_others_is_not_removed(services: Services) -> None:
    accounts = services.studio.accounts
    accounts.add("root", PASSWORD)
    accounts.add("ann", PASSWORD)
    accounts._settings = replace(services.settings, trusted_proxies="127.0.0.1")
    accounts.remove("ann")
    with pytest.raises(Conflict, match=r"last account\. Others can reach this server \(trusted_proxies = 127"):
        accounts.remove("root")
    assert accounts.any()
    accounts._settings = services.settings
    accounts.remove("root")
    assert not accounts.any()
