"""The commands about accounts and tokens, and that no password is ever an argument."""

import io
import json
import sys
from typing import Any

import pytest
from typer.main import get_command

from diffusion_local.cli import app, main
from diffusion_local.compose import Services

GROUPS: dict[str, Any] = {
    name: command
    for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
    if name in ("user", "token")
}
PASSWORD = "correct horse"


@pytest.fixture
def cli(services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; (exit status, output, errors). What is typed comes by standard input."""
    monkeypatch.setenv("DIFFUSION_LOCAL_PASSWORD_MEMORY_KB", "8")

    def run(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diffusion-local", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        result = capsys.readouterr()
        return status, result.out, result.err

    return run


def test_no_command_takes_a_password_as_an_argument() -> None:
    for group in GROUPS.values():
        for command in group.commands.values():
            for parameter in command.params:
                assert parameter.name != "password"
                if "password" in parameter.name:
                    assert parameter.is_flag


def test_the_last_account_goes_with_a_word_and_not_from_a_server_for_others(cli: Any, services: Services) -> None:
    cli("user", "add", "root", typed=f"{PASSWORD}\n")
    config = services.settings.home / "config.toml"
    config.write_text('allowed_hosts = "studio.example"\n')
    status, _, errors = cli("user", "remove", "root")
    assert status == 2
    assert "Others can reach this server (allowed_hosts = studio.example)" in errors
    assert services.studio.accounts.any()
    config.unlink()
    assert "whoever is at this machine may do everything" in cli("user", "remove", "root")[1]
    assert not services.studio.accounts.any()


def test_an_account_from_its_first_day_to_its_last(cli: Any, services: Services) -> None:
    assert "added root (admin)" in cli("user", "add", "root", typed=f"{PASSWORD}\n")[1]
    assert "added ann (user)" in cli("user", "add", "ann", "--password-stdin", typed=PASSWORD)[1]
    accounts = services.studio.accounts
    assert accounts.sign_in("ann", PASSWORD, "10.0.0.5", "")
    cli("user", "limits", "ann", "--queued", "5", "--per-day", "9")
    answer = json.loads(cli("user", "limits", "ann", "--json")[1])
    assert answer == {"queued": 5, "per_day": 9, "pixels": 0, "used_today": 0}
    cli("user", "limits", "ann", "--queued", "-")
    assert accounts.allowance("ann").queued == 0
    listed = json.loads(cli("user", "list", "--json")[1])
    answer = [(each["name"], each["role"], each["sessions"]) for each in listed]
    assert answer == [
        ("ann", "user", 1),
        ("root", "admin", 0),
    ]
    assert "10.0.0.5" in cli("user", "sessions", "ann")[1]
    cli("user", "sign-out", "ann")
    assert "signed in nowhere" in cli("user", "sessions", "ann")[1]
    cli("user", "passwd", "ann", typed="another horse\n")
    assert accounts.sign_in("ann", "another horse", "10.0.0.5", "")
    cli("user", "role", "ann", "viewer")
    assert accounts.get("ann").role == "viewer"
    assert cli("user", "remove", "root")[0] == 2
    cli("user", "remove", "ann")
    cli("user", "remove", "root")
    assert not accounts.any()


def test_a_token_is_shown_once(cli: Any, services: Services) -> None:
    cli("user", "add", "root", typed=PASSWORD)
    secret = cli("token", "add", "root", "--name", "night", "--scopes", "read,submit")[1].strip()
    who = services.studio.accounts.by_token(secret)
    assert who
    assert who.name == "root"
    [listed] = json.loads(cli("token", "list", "root", "--json")[1])
    assert (listed["name"], listed["scopes"]) == ("night", ["read", "submit"])
    assert secret not in json.dumps(listed)
    cli("token", "remove", "root", listed["id"])
    assert services.studio.accounts.by_token(secret) is None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("user", "add", "Bad Name"), "name"),
        (("user", "add", "bob", "--role", "king"), "role"),
        (("user", "passwd", "nobody"), "There is no account"),
        (("user", "limits", "root", "--queued", "-5"), "queued"),
        (("user", "role", "root", "user"), "last admin"),
        (("token", "add", "nobody"), "There is no account"),
        (("token", "add", "root", "--scopes", "everything"), "scopes"),
        (("token", "remove", "root", "x"), "no token"),
    ],
)
def test_what_cannot_be_is_refused(cli: Any, services: Services, arguments: tuple[str, ...], problem: str) -> None:
    services.studio.accounts.add("root", PASSWORD)
    status, _, errors = cli(*arguments, typed=PASSWORD)
    assert status == 2
    assert problem in errors


@pytest.mark.parametrize("arguments", [("--lan",), ("--host", "0.0.0.0")])
def test_a_server_for_others_does_not_start_without_accounts(cli: Any, arguments: tuple[str, ...]) -> None:
    status, _, errors = cli("serve", "--port", "0", "--engine", "fake", "--no-worker", *arguments)
    assert status == 2
    assert "user add NAME" in errors


def test_a_server_starts_with_no_half_of_a_certificate(cli: Any) -> None:
    status, _, errors = cli("serve", "--port", "0", "--no-worker", "--tls-cert", "nothing.pem")
    assert status == 2
    assert "tls_key must be given together" in errors
