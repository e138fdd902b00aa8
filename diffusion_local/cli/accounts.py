"""Commands for accounts, tokens and certificates. Passwords are prompted for or read from standard input, never taken
from the command line.
"""

import getpass
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from diffusion_local.accounts.service import Accounts
from diffusion_local.accounts.store import Account, Token
from diffusion_local.actor import Role, Scope
from diffusion_local.cli.terminal import AsJson, Home, print_result
from diffusion_local.compose import open_studio
from diffusion_local.errors import InvalidParams, echo
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.system.network import self_signed

app = typer.Typer()
user = typer.Typer(no_args_is_help=True, help="Accounts: users, their roles and limits.")
token = typer.Typer(no_args_is_help=True, help="Personal API tokens for programs.")
app.add_typer(user, name="user")
app.add_typer(token, name="token")
tls = typer.Typer(no_args_is_help=True, help="Certificates for HTTPS.")
app.add_typer(tls, name="tls")

FromInput = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
Limit = Annotated[str | None, typer.Option(help="A number; 0: no limit, -: the limit in the settings.")]


def open_accounts(home: Any) -> Accounts:
    return open_studio(Settings.load(home=home)).accounts


@user.command()
def add(
    name: str,
    role: Annotated[str | None, typer.Option(help=f"{', '.join(Role)}; user, and of the first account admin.")] = None,
    password_stdin: FromInput = False,
    home: Home = None,
) -> None:
    """Add an account. With the first one the server requires everyone to sign in."""
    accounts = open_accounts(home)
    first = not accounts.any()
    made = accounts.add(name, read_password(password_stdin), role)
    print(f"added {made.name} ({made.role})")
    if first:
        print("From now on the page and the APIs ask everybody to sign in, also on this machine.")


@user.command("list")
def list_users(home: Home = None, as_json: AsJson = False) -> None:
    """List the accounts."""
    accounts = open_accounts(home)
    found = accounts.all()
    print_result(
        [account_json(accounts, each) for each in found], as_json, [format_account(accounts, each) for each in found]
    )


@user.command()
def passwd(name: str, password_stdin: FromInput = False, home: Home = None) -> None:
    """Set an account's password; ends all its sessions."""
    accounts = open_accounts(home)
    accounts.get(name)
    accounts.set_password(name, read_password(password_stdin))
    print(f"changed the password of {name}")


@user.command()
def role(name: str, role: Annotated[str, typer.Argument(help=", ".join(Role))], home: Home = None) -> None:
    """Change an account's role, with immediate effect."""
    open_accounts(home).set_role(name, role)
    print(f"{name} is {role} now")


@user.command()
def limits(
    name: str,
    queued: Limit = None,
    per_day: Limit = None,
    pixels: Limit = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show or set an account's limits: queued jobs, pictures per day, pixels per picture."""
    accounts = open_accounts(home)
    entered = {"queued": queued, "per_day": per_day, "pixels": pixels}
    limits = {what: parse_limit(what, value) for what, value in entered.items() if value is not None}
    if limits:
        accounts.set_limits(name, **limits)
    answer = asdict(accounts.allowance(name)) | {"used_today": accounts.used_today(name)}
    print_result(
        answer,
        as_json,
        [f"{what:>12}  {value or ('no limit' if what in entered else 0)}" for what, value in answer.items()],
    )


@user.command("sign-out")
def sign_out(name: str, home: Home = None) -> None:
    """End every session of an account; its tokens stay."""
    accounts = open_accounts(home)
    accounts.get(name)
    accounts.sign_out(name)
    print(f"signed {name} out everywhere")


@user.command()
def sessions(name: str, home: Home = None, as_json: AsJson = False) -> None:
    """List where an account is signed in."""
    found = open_accounts(home).sessions(name)
    lines = [f"{each.id}  {each.used_at}  {each.address}  {each.agent}" for each in found]
    print_result(found, as_json, lines or ["signed in nowhere"])


@user.command()
def remove(name: str, home: Home = None) -> None:
    """Remove an account with its sessions and tokens; its jobs and pictures stay."""
    accounts = open_accounts(home)
    accounts.remove(name)
    print(f"removed {name}")
    if not accounts.any():
        print("It was the last account: from now on whoever is at this machine may do everything, without signing in.")


@token.command("add")
def add_token(
    account: str,
    name: Annotated[str, typer.Option(help="Purpose of the token.")] = "command line",
    scopes: Annotated[str, typer.Option(help=f"Comma-separated, from {', '.join(Scope)}.")] = "read,submit,control",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Create a token for an account; it is shown only once."""
    chosen = [each.strip() for each in scopes.split(",") if each.strip()]
    made, secret = open_accounts(home).add_token(account, name, chosen)
    print_result(token_json(made) | {"token": secret}, as_json, [secret])


@token.command("list")
def list_tokens(account: str, home: Home = None, as_json: AsJson = False) -> None:
    """List an account's tokens."""
    accounts = open_accounts(home)
    accounts.get(account)
    tokens = accounts.tokens(account)
    lines = [
        f"{each.id}  {','.join(sorted(each.scopes)):<28}  {each.used_at or 'never used':<24}  {each.name}"
        for each in tokens
    ]
    print_result([token_json(each) for each in tokens], as_json, lines or ["no tokens"])


@token.command("remove")
def remove_token(account: str, token_id: str, home: Home = None) -> None:
    """Remove a token; it is refused from now on."""
    open_accounts(home).remove_token(account, token_id)
    print(f"removed {token_id}")


@tls.callback()
def certificates() -> None:
    """Certificates for HTTPS."""


@tls.command("self-signed")
def self_signed_certificate(
    name: Annotated[list[str] | None, typer.Option(help="Another host name or address; may be repeated.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite an existing certificate.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write a self-signed certificate for this machine's names and addresses into the home."""
    folder = Settings.load(home=home).home / "tls"
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names, fingerprint = self_signed(certificate, key, name or [], replace)
    answer = {"tls_cert": str(certificate), "tls_key": str(key), "names": names, "sha256": fingerprint}
    lines = [
        f"wrote {certificate} and {key}, for {', '.join(names)}",
        f"SHA-256 {fingerprint}: compare it where a browser warns of it",
        f"diffusion-local serve --lan --tls-cert {certificate} --tls-key {key}",
    ]
    print_result(answer, as_json, lines)


def read_password(from_input: bool) -> str:
    """The first line of standard input, or a prompt with confirmation."""
    if from_input or not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("Once more: "):
        raise InvalidParams("password", message("password_twice"))
    return password


def parse_limit(field: str, value: str) -> int | None:
    if value == "-":
        return None
    if not (value.isascii() and value.isdigit()):
        raise InvalidParams(field, message("number_or_dash", got=echo(value)))
    return int(value)


def account_json(accounts: Accounts, account: Account) -> dict[str, Any]:
    return {"name": account.name, "role": str(account.role), "created_at": account.created_at} | {
        "limits": asdict(accounts.allowance(account.name)),
        "sessions": len(accounts.sessions(account.name)),
        "tokens": len(accounts.tokens(account.name)),
    }


def format_account(accounts: Accounts, account: Account) -> str:
    shaped = account_json(accounts, account)
    return f"{account.name:<20} {account.role:<7} {shaped['sessions']} sessions, {shaped['tokens']} tokens"


def token_json(token: Token) -> dict[str, Any]:
    return asdict(token) | {"scopes": sorted(token.scopes)}
