"""The HTML of the sign-in and the account page."""

from diffusion_local.accounts.service import MIN_PASSWORD
from diffusion_local.accounts.store import Session, Token
from diffusion_local.actor import SCOPES, Actor, Allowance, Scope
from diffusion_local.web.ui import words
from diffusion_local.web.ui.templates import render


def sign_in(root: str, following: str, name: str = "", problem: str = "", note: str = "") -> str:
    return render("sign_in.html", tag=tag(), root=root, following=following, name=name, problem=problem, note=note)


def account(
    root: str,
    who: Actor,
    allowance: Allowance,
    used: int,
    tokens: list[Token],
    sessions: list[Session],
    own_session: str,
    problem: str = "",
    note: str = "",
    secret: str = "",
) -> str:
    """``own_session``: id of the session of this request; ``secret``: a new token, shown once."""
    return render(
        "account.html",
        tag=tag(),
        root=root,
        who=who,
        limits=[("queued", allowance.queued), ("per_day", allowance.per_day), ("pixels", allowance.pixels)],
        used=used,
        tokens=tokens,
        tokens_help=words.say("account.tokens_help", name=who.name),  # text: its <token> is no element
        scopes=[scope for scope in Scope if scope in SCOPES[who.role]],
        sessions=sessions,
        own_session=own_session,
        min_password=MIN_PASSWORD,
        problem=problem,
        note=note,
        secret=secret,
    )


def tag() -> str:
    return words.LANGUAGE_TAGS[words.language()]
